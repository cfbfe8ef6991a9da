// The board: a table and figures of the runs in #data. All text reaches the page as text nodes, never as markup.
"use strict";
const byId = (id) => document.getElementById(id);
const texts = JSON.parse(byId("texts").textContent);
const UNKNOWN = { sweep: "", recipe: "", model: "", loss: "", task: "", backend: "", note: "", measures: {}, curve: [], validation: [] };
const listOf = (value) => (Array.isArray(value) ? value : []);
function complete(data) {  // each run with its sweep and its trial
  const sweeps = new Map(data.sweeps.map((sweep) => [sweep.name, { sweep, trials: new Map(sweep.trials.map((trial) => [trial.number, trial])) }]));
  return { ...data, runs: data.runs.map((run) => ({ ...UNKNOWN, ...run, of: sweeps.get(run.sweep)?.sweep, as: sweeps.get(run.sweep)?.trials.get(run.trial) })) };
}
let board = complete(JSON.parse(byId("data").textContent));
const view = {
  language: document.documentElement.lang.startsWith("zh") ? "zh" : "en",
  words: "", sweep: null, evaluated: null, metric: null, axis: null, hidden: new Set(), sort: "after", down: null,
  chosen: new Set(),
};
const COLOURS = 8, FIRST_FEW = 5, MOST_AXES = 9, MANY = 80;
const WIDTH = 1240, HEIGHT = 380;

const say = (key, ...values) =>
  values.reduce((text, value, place) => text.replace(`{${place}}`, value), texts[view.language][key] ?? String(key));
const order = new Intl.Collator(undefined, { numeric: true }).compare;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const short = (text) => String(text).replace(/\/+$/, "").split("/").pop();
const label = (key) => key.replace(/^train\./, "");
const minus = (text) => text.replace("-", "−");

function figure(value, digits = 3) {  // as the report writes a measure
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  return minus(size < 100 ? value.toFixed(digits) : size < 1e6 ? value.toFixed(1) : value.toPrecision(3));
}
const signed = (value) => (!isNumber(value) ? "–" : Number(value.toFixed(3)) > 0 ? `+${figure(value)}` : figure(value));
function plain(value) {  // a setting or a tick
  if (!isNumber(value)) return value == null ? "–" : String(value);
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e7) ? value.toExponential().replace("e+", "e") : String(+value.toPrecision(6));
}
function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
}
function moment(unix) {
  if (!isNumber(unix)) return "–";
  const time = new Date(unix * 1000), two = (number) => String(number).padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
}

function make(name, attributes = {}, ...children) {
  const space = ["svg", "g", "path", "line", "circle", "text", "title"].includes(name) && "http://www.w3.org/2000/svg";
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

// What a run says under the chosen metric; a run that did not measure it shows its own headline in the table only.
function measure(run) {
  const name = run.measures[view.metric] ? view.metric : run.headline;
  return { name, own: name !== view.metric, ...(run.measures[name] ?? {}) };
}
const stateOf = (run) => (["pruned", "stopped"].includes(run.as?.state) ? run.as.state : run.state);
const verdictOf = (run) => measure(run).verdict ?? run.verdict;
const evaluatedOn = (run) => (run.eval ? `${run.eval.units} × ${run.eval.unit} · ${run.eval.hash}` : "");
const FIELDS = {  // column → value to sort and to filter by
  name: (run) => run.name, after: (run) => measure(run).after, difference: (run) => measure(run).difference,
  interval: (run) => measure(run).low, verdict: verdictOf, state: stateOf,
  recipe: (run) => run.recipe, model: (run) => short(run.model), loss: (run) => run.loss, rate: (run) => run.rate,
  seed: (run) => run.seed, settings: settings, seconds: (run) => run.seconds, started: (run) => run.started,
};
const NUMBERS = new Set(["after", "difference", "rate", "seed", "seconds"]);
const IN_COLUMNS = new Set(["loss", "train.learning_rate", "train.seed", "model", "task", "backend"]);

function settings(run) {
  const given = Object.entries(run.set).filter(([key]) => !IN_COLUMNS.has(key));
  return given.map(([key, value]) => `${label(key)} ${plain(value)}`).join(" · ");
}

function parseWords(text) {  // words, and conditions on a setting or a column
  const tests = text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const found = /^([\w.]+)(<=|>=|=|<|>)(.+)$/.exec(word);
    if (!found) return (run, whole) => whole.includes(word.toLowerCase());
    const [, key, sign, wanted] = found;
    return (run) => {
      const named = Object.keys(run.set).find((name) => name === key || name.endsWith(`.${key}`));
      const value = named ? run.set[named] : { learning_rate: run.rate, backend: run.backend, task: run.task }[key] ?? FIELDS[key]?.(run);
      if (value == null) return false;
      if (sign === "=") return isNumber(value) ? value === Number(wanted) : String(value).toLowerCase() === wanted.toLowerCase();
      return { "<": value < Number(wanted), ">": value > Number(wanted), "<=": value <= Number(wanted), ">=": value >= Number(wanted) }[sign];
    };
  });
  return (run) => {
    const whole = [run.name, run.recipe, run.model, run.loss, run.note, run.sweep, run.backend, run.task, run.verdict, settings(run), ...run.tags].join(" ").toLowerCase();
    return tests.every((test) => test(run, whole));
  };
}

function isIn(run) {
  return (view.sweep === null || run.sweep === view.sweep) && (view.evaluated === null || evaluatedOn(run) === view.evaluated);
}
const isDown = () => view.down ?? (view.sort === "after" && board.metrics[view.metric]?.higher !== false);
function shownRuns() {
  const matches = parseWords(view.words), field = FIELDS[view.sort], way = isDown() ? -1 : 1;
  const known = (value) => value != null && value !== "";
  return board.runs.filter((run) => isIn(run) && !view.hidden.has(stateOf(run)) && matches(run)).sort((one, two) => {
    const [a, b] = [field(one), field(two)];
    if (!known(a) || !known(b)) return known(b) - known(a);  // what is not known comes last, whatever the direction
    return way * (isNumber(a) && isNumber(b) ? a - b : order(String(a), String(b)));
  });
}

const count = (values) => [...values.reduce((found, value) => found.set(value, (found.get(value) ?? 0) + 1), new Map())];
const tone = (verdict) => ({ better: "win", worse: "loss" })[verdict] ?? "";
const mark = (verdict) => ({ better: "better", worse: "worse" })[verdict] ?? "even";
const badge = (verdict) => verdict && make("span", { class: `badge ${tone(verdict)}` }, say(verdict));
const colourOf = (run) => { const place = [...view.chosen].indexOf(run.path); return place < 0 ? "" : ` c${place % COLOURS}`; };

function spanBar({ low, high, difference: middle, verdict }, reach) {
  const x = (value) => 48 + 46 * Math.max(-1, Math.min(1, value / reach));
  const name = { class: `span ${mark(verdict)}` };
  return make("svg", { viewBox: "0 0 96 14", "aria-hidden": "true" }, make("line", { class: "zero", x1: 48, x2: 48, y1: 0, y2: 14 }),
    make("line", { ...name, x1: x(low), x2: x(high), y1: 7, y2: 7 }), make("circle", { ...name, cx: x(middle), cy: 7, r: 2.5 }));
}

function drawHeads() {
  byId("heads").replaceChildren(make("th", { scope: "col" }), ...Object.keys(FIELDS).map((key) => {
    const sorted = view.sort === key && (isDown() ? "descending" : "ascending");
    const text = key === "after" ? board.metrics[view.metric]?.title ?? say(key) : say(key);
    const turn = () => { [view.down, view.sort] = [view.sort === key ? !isDown() : key === "started" || key === "difference" || null, key]; draw(); byId(`sort-${key}`).focus(); };
    return make("th", { scope: "col", class: NUMBERS.has(key) && "number", "aria-sort": sorted }, make("button", { type: "button", id: `sort-${key}`, onclick: turn }, text));
  }));
}

function drawRow(run, reach) {
  const found = measure(run), state = stateOf(run), colour = colourOf(run);
  const choice = run.of?.choice, has = (numbers) => listOf(numbers).includes(run.trial);
  const marks = choice ? [has(choice.winner?.trials) && "winner", listOf(choice.not_worse).some(has) && "not_worse"] : [];
  const note = run.as?.note || run.note, text = (value) => make("td", { class: "text", title: value }, value || "–");
  const number = (value) => make("td", { class: "number" }, value);
  const chooser = make("input", { type: "checkbox", "aria-label": `${say("choose")}: ${run.name}`, onchange: (event) => choose(run, event.target.checked) });
  chooser.checked = view.chosen.has(run.path);
  return make("tr", { class: chooser.checked && "chosen" }, make("td", {}, chooser),
    make("td", { class: "run", title: run.path }, colour && make("i", { class: `swatch${colour}` }),
      run.sweep ? `${run.sweep} / ` : "", run.report ? make("a", { href: run.report }, run.name) : run.name,
      ...[...run.tags, ...marks.filter(Boolean).map((key) => say(key))].map((tag) => make("span", { class: "tag" }, tag)),
      note && make("span", { class: `role${["damaged", "failed", "dead"].includes(state) ? " fault" : ""}` }, note)),
    make("td", { class: "number" }, make("b", {}, figure(found.after)), found.own && found.name && make("span", { class: "role" }, board.metrics[found.name]?.title ?? found.name)),
    number(signed(found.difference)),
    make("td", {}, ...(isNumber(found.low) && isNumber(found.high) ? [!found.own && spanBar(found, reach), `${signed(found.low)} … ${signed(found.high)}`] : ["–"])),
    make("td", {}, badge(verdictOf(run)), run.gate === false && make("span", { class: "role fault" }, say("gate_missed"))),
    make("td", {}, say(state)), text(run.recipe), make("td", { class: "text", title: run.model }, short(run.model) || "–"), text(run.loss),
    number(plain(run.rate)), number(plain(run.seed)), text(settings(run)), number(duration(run.seconds)), make("td", {}, moment(run.started)));
}

function drawTable(runs) {
  const reach = Math.max(...runs.map(measure).filter((found) => !found.own).flatMap(({ low, high }) => [low, high]).filter(isNumber).map(Math.abs), 1e-9);
  byId("body").replaceChildren(...(runs.length ? runs.map((run) => drawRow(run, reach)) : [make("tr", {}, make("td", { colspan: 15 }, say("empty")))]));
  byId("count").textContent = say("shown", runs.length, board.runs.length);
  const sets = new Set(runs.map(evaluatedOn).filter(Boolean));
  byId("mixed").hidden = sets.size < 2;
  byId("mixed").textContent = say("mixed", sets.size);
  byId("chosen").hidden = !view.chosen.size;
  byId("compare").textContent = `orch compare ${[...view.chosen].map((path) => (/^[\w./+-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`)).join(" ")}`;
}

function drawSweeps() {
  byId("sweeps").hidden = !board.sweeps.length;
  byId("sweep-cards").replaceChildren(...board.sweeps.map((sweep) => {
    const counts = count(sweep.trials.map((trial) => trial.state)).map(([state, number]) => `${number} ${say(state)}`);
    const { choice } = sweep, winner = choice?.winner, list = (set) => Object.entries(set ?? {}).map(([key, value]) => `${label(key)} ${plain(value)}`).join(" · ");
    const others = listOf(choice?.not_worse).map((numbers) => list(sweep.trials.find((trial) => trial.number === listOf(numbers)[0])?.set));
    const span = Array.isArray(winner?.interval) ? ` [${signed(winner.interval[0])}, ${signed(winner.interval[1])}]` : "";
    return make("div", { class: "card" }, make("h3", {}, sweep.name), make("p", { class: "note" }, `${say("trials")}: ${counts.join(", ")}`),
      ...(winner ? [make("p", {}, badge(winner.verdict), choice.gate?.passed === false && make("span", { class: "badge miss" }, say("gate_missed")), " ", make("b", {}, list(winner.set))),
        make("p", {}, `${sweep.metric ? board.metrics[sweep.metric]?.title ?? sweep.metric : ""} ${signed(winner.difference)}${span}${isNumber(winner.p) ? `, p ${winner.p < 0.001 ? "< 0.001" : `= ${winner.p.toFixed(3)}`}` : ""}`),
        make("p", { class: "note" }, `${say("chosen_from", choice.chosen_from, sweep.trials.length)}; ${say(choice.rule)}`),
        make("p", { class: "note" }, say("also", others.join("; ") || say("nobody")))] : [make("p", {}, say("no_choice"))]));
  }));
}

function ticks(low, high, most = 6) {
  const span = high - low || 1, power = 10 ** Math.floor(Math.log10(span / most));
  const step = power * ([1, 2, 5, 10].find((factor) => span / (power * factor) <= most) ?? 10), found = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + step * 1e-9; count++) found.push(+(count * step).toPrecision(12));
  return found;
}
function makeScale(values, from, to, mayLog = true) {  // → {at(value), ticks, room}: numbers, by powers of ten where they span many; else texts, evenly
  const all = values.filter((value) => value != null), numeric = all.length > 0 && all.every(isNumber);
  if (!numeric) {
    const names = [...new Set(all.map(String))].sort(order), step = (to - from) / Math.max(1, names.length);
    return { at: (value) => from + (names.indexOf(String(value)) + 0.5) * step, ticks: names.length > 14 ? [] : names, room: all.length > names.length ? Math.min(Math.abs(step) * 0.6, 40) : 0 };
  }
  let [low, high] = [Math.min(...all), Math.max(...all)];
  const log = mayLog && low > 0 && high / low >= 20, place = log ? Math.log10 : (value) => value, distinct = [...new Set(all)];
  const pad = (place(high) - place(low)) * 0.05 || Math.abs(place(low)) * 0.1 || 0.5, [first, last] = [place(low) - pad, place(high) + pad];
  const at = (value) => from + ((place(value) - first) / (last - first)) * (to - from), sorted = distinct.map(at).sort((a, b) => a - b);
  const least = Math.min(...sorted.slice(1).map((spot, before) => spot - sorted[before]), 60);
  return {
    at, room: distinct.length <= 12 && all.length > 2 * distinct.length ? least * 0.6 : 0,  // where few values are shared by many, they are spread a little
    ticks: distinct.length <= 6 ? distinct : log ? ticks(Math.ceil(first), Math.floor(last), 8).filter(Number.isInteger).map((power) => 10 ** power) : ticks(first, last),
  };
}
function frame(id, name, height, ...marks) {
  byId(id).className = "plot wide";
  byId(id).replaceChildren(make("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": name }, ...marks));
}
const gap = (id, key) => byId(id).replaceChildren(make("p", { class: "gap" }, say(key)));
const titled = (run) => make("title", {}, `${run.sweep ? `${run.sweep} / ` : ""}${run.name}: ${figure(measure(run).after)}\n${settings(run)}`);
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const axesOf = (runs) => board.keys.filter((key) => new Set(runs.map((run) => run.set[key]).filter((value) => value != null)).size > 1);

function drawParallel(measured, keys) {
  const shown = keys.slice(0, MOST_AXES);
  if (!shown.length) return gap("parallel", "one_setting");
  const value = (run, key) => (key === null ? measure(run).after : run.set[key]), top = 44, bottom = HEIGHT - 20;
  const axes = [...shown, null].map((key, place) => ({ key, x: 70 + (place * (WIDTH - 190)) / shown.length, scale: makeScale(measured.map((run) => value(run, key)), bottom, top, key !== null) })), most = Math.floor(((WIDTH - 190) / shown.length - 12) / 7);
  const way = board.metrics[view.metric].higher ? 1 : -1, ranked = [...measured].sort((one, two) => way * (measure(one).after - measure(two).after));
  const rank = new Map(ranked.map((run, place) => [run, (place + 1) / ranked.length]));  // the best is drawn last, and strongest
  const lines = ranked.sort((one, two) => view.chosen.has(one.path) - view.chosen.has(two.path)).map((run) => {
    const points = axes.filter(({ key }) => value(run, key) != null).map(({ key, x, scale }) => `${x.toFixed(1)} ${(scale.at(value(run, key)) + (0.5 - rank.get(run)) * scale.room).toFixed(1)}`);
    const chosen = view.chosen.has(run.path) ? ` chosen${colourOf(run)}` : "", strength = measured.length > MANY ? Math.max(0.06, 0.8 * rank.get(run) ** 6) : 0.3 + 0.6 * rank.get(run);
    return make("path", { class: `run ${tone(verdictOf(run))}${chosen}`, "stroke-opacity": chosen ? 1 : strength.toFixed(2), d: `M${points.join("L")}` }, titled(run));
  });
  const marks = axes.flatMap(({ key, x, scale }, place) => [make("line", { class: "zero", x1: x, x2: x, y1: top, y2: bottom }),
    make("text", { class: "strong middle", x, y: 18 + (place % 2 && shown.length > 5 ? 16 : 0) }, shorten(key === null ? board.metrics[view.metric].title : label(key), 26)),
    ...scale.ticks.map((tick) => make("text", { class: "axis", x: x + 7, y: scale.at(tick) + 4 }, shorten(key === null ? figure(tick) : plain(isNumber(tick) ? tick : short(tick)), Math.min(most, 24))))]);
  frame("parallel", say("parallel"), HEIGHT, ...lines, ...marks);
}

function drawScatter(measured, keys) {
  if (!keys.includes(view.axis)) view.axis = keys[0] ?? null;
  fill("axis", keys.map((key) => [key, label(key)]), view.axis);
  const points = measured.filter((run) => run.set[view.axis] != null);
  if (!points.length) return gap("scatter", "one_setting");
  const left = 70, right = WIDTH - 30, top = 16, bottom = HEIGHT - 46, ends = ({ after, difference, low, high }) => (isNumber(low) && isNumber(high) ? [after - difference + low, after - difference + high] : []);
  const x = makeScale(points.map((run) => run.set[view.axis]), left, right), y = makeScale(points.flatMap((run) => [measure(run).after, ...ends(measure(run))]), bottom, top, false);
  const marks = points.map((run, number) => {
    const at = [x.at(run.set[view.axis]) + (((number * 0.618) % 1) - 0.5) * x.room, y.at(measure(run).after)], [low, high] = ends(measure(run)), chosen = view.chosen.has(run.path) ? ` chosen${colourOf(run)}` : "";
    const whisker = (points.length <= MANY || chosen) && low !== undefined && make("line", { class: "whisker", x1: at[0], x2: at[0], y1: y.at(low), y2: y.at(high) });
    return make("g", {}, whisker, make("circle", { class: `${mark(verdictOf(run))}${chosen}`, cx: at[0], cy: at[1], r: chosen ? 6 : 4.5 }, titled(run)));
  });
  frame("scatter", say("scatter"), HEIGHT, ...grid(x, y, left, right, top, bottom, plain, `${label(view.axis)}`, board.metrics[view.metric].title), ...marks);
}
function grid(x, y, left, right, top, bottom, write, across, up) {
  return [...y.ticks.flatMap((tick) => [make("line", { class: "grid", x1: left, x2: right, y1: y.at(tick), y2: y.at(tick) }), make("text", { class: "axis end", x: left - 8, y: y.at(tick) + 4 }, plain(tick))]),
    ...x.ticks.map((tick) => make("text", { class: "axis middle", x: x.at(tick), y: bottom + 18 }, shorten(write(isNumber(tick) ? tick : short(tick)), 22))),
    make("line", { class: "zero", x1: left, x2: right, y1: bottom, y2: bottom }), make("text", { class: "axis end", x: right, y: bottom + 38 }, across), make("text", { class: "axis", x: left + 6, y: top + 2 }, up)];
}

function drawLosses(runs) {
  const has = (run) => run.curve.length > 0, asked = board.runs.filter((run) => view.chosen.has(run.path)).filter(has);
  const drawn = (view.chosen.size ? [...view.chosen].map((path) => asked.find((run) => run.path === path)).filter(Boolean) : runs.filter(has).slice(0, FIRST_FEW)).slice(0, 2 * COLOURS);
  byId("drawn").textContent = !view.chosen.size && drawn.length ? say("first_few", drawn.length) : asked.length > drawn.length ? say("most", drawn.length) : "";
  if (!drawn.length) return gap("losses", "no_losses");
  const left = 70, right = WIDTH - 30, top = 16, bottom = HEIGHT - 46, all = drawn.flatMap((run) => [...run.curve, ...run.validation]);
  const x = makeScale([0, ...all.map(([step]) => step)], left, right, false), y = makeScale(all.map(([, loss]) => loss), bottom, top, false);
  const colours = new Map(drawn.map((run, place) => [run, colourOf(run) || ` c${place % COLOURS}`])), path = (points) => `M${points.map(([step, loss]) => `${x.at(step).toFixed(1)} ${y.at(loss).toFixed(1)}`).join("L")}`;
  const lines = drawn.flatMap((run) => [[run.curve, ""], [run.validation, " dashed"]].filter(([points]) => points.length).map(([points, style]) =>
    points.length > 1 ? make("path", { class: `curve-line${style}${colours.get(run)}`, d: path(points) }, titled(run)) : make("circle", { class: `point${colours.get(run)}`, cx: x.at(points[0][0]), cy: y.at(points[0][1]), r: 3 }, titled(run))));
  frame("losses", say("losses"), HEIGHT, ...grid({ ...x, ticks: ticks(0, Math.max(...all.map(([step]) => step)), 8) }, y, left, right, top, bottom, plain, say("step"), say("loss")), ...lines);
  byId("losses").prepend(make("p", { class: "legend" }, ...drawn.map((run) => make("span", {}, make("i", { class: `swatch${colours.get(run)}` }), `${run.sweep ? `${run.sweep} / ` : ""}${run.name}`))));
}

function fill(id, choices, value) {
  byId(id).replaceChildren(...choices.map(([key, text], place) => make("option", { value: String(place), selected: key === value }, text)));
  byId(id).onchange = (event) => { view[id] = choices[event.target.value][0]; draw(); };
}
function drawControls() {
  const sweeps = count(board.runs.map((run) => run.sweep)), sets = count(board.runs.map(evaluatedOn).filter(Boolean));
  fill("sweep", [[null, say("all")], ...sweeps.map(([name, number]) => [name, `${name || say("no_sweep")} (${number})`])], view.sweep);
  fill("evaluated", [[null, say("all")], ...sets.map(([name, number]) => [name, `${name} (${number})`])], view.evaluated);
  const heads = count(board.runs.map((run) => run.headline).filter(Boolean)).sort((one, two) => two[1] - one[1]);
  if (!board.metrics[view.metric]) view.metric = heads[0]?.[0] ?? null;
  fill("metric", Object.entries(board.metrics).map(([name, { title }]) => [name, title]), view.metric);
  byId("states").replaceChildren(...count(board.runs.map(stateOf)).map(([state, number]) => {
    const box = make("input", { type: "checkbox", id: `state-${state}`, onchange: (event) => { view.hidden[event.target.checked ? "delete" : "add"](state); drawRuns(); } });
    box.checked = !view.hidden.has(state);
    return make("label", {}, box, `${say(state)} (${number})`);
  }));
  byId("language").textContent = say("language");
  byId("words").placeholder = say("find_hint");
}
function choose(run, is) {
  const place = byId("rows").scrollTop;
  view.chosen[is ? "add" : "delete"](run.path);
  drawRuns();
  byId("rows").scrollTop = place;
  [...byId("body").querySelectorAll("input")].find((box) => box.getAttribute("aria-label").endsWith(`: ${run.name}`))?.focus();
}
function drawRuns() {
  const runs = shownRuns(), measured = runs.filter((run) => !measure(run).own && isNumber(measure(run).after)), keys = axesOf(measured);
  drawHeads(); drawTable(runs); drawLosses(runs); drawParallel(measured, keys); drawScatter(measured, keys);
}
function draw() {
  document.querySelectorAll("[data-w]").forEach((node) => { node.textContent = say(node.dataset.w); });
  drawControls(); drawSweeps(); drawRuns();
}

let soon = 0;
byId("words").oninput = (event) => {  // many rows take a moment: they wait for the end of the word
  view.words = event.target.value;
  clearTimeout(soon);
  if (board.runs.length < 200) drawRuns(); else soon = setTimeout(drawRuns, 250);
};
byId("controls").onsubmit = (event) => event.preventDefault();
byId("clear").onclick = () => { view.chosen.clear(); drawRuns(); };
byId("language").onclick = () => {
  view.language = view.language === "zh" ? "en" : "zh";
  document.documentElement.lang = view.language === "zh" ? "zh-CN" : "en";
  byId("language").lang = view.language === "zh" ? "en" : "zh-CN";
  draw();
};
draw();

if ("live" in document.body.dataset) {
  let known = "", since = Date.now();
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const text = await (await fetch("board.json", { cache: "no-store" })).text();
      byId("gone").hidden = true;
      since = Date.now();
      if (text !== known) { known = text; board = complete(JSON.parse(text)); draw(); }
    } catch {
      byId("gone").textContent = say("gone", moment(since / 1000));
      byId("gone").hidden = false;
    }
  }, 5000);
}
