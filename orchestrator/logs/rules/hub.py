"""Hubs: not reachable, refusing, or reached through a proxy or certificate that does not work."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

HUB = (
    rule(
        "proxy-refused",
        r"ProxyError|Unable to connect to proxy|407 Proxy Authentication Required",
        Text("the proxy cannot be reached, or refuses", "代理无法连接，或拒绝请求"),
        Text(
            "check https_proxy and http_proxy (name, port, password), or unset them; no_proxy leaves hosts out",
            "检查 https_proxy 和 http_proxy（主机、端口、密码）或取消设置；不走代理的主机写入 no_proxy",
        ),
    ),
    rule(
        "certificate-refused",
        r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|certificate verify failed",
        Text(
            "the hub's TLS certificate is not trusted: a proxy or mirror has one of its own",
            "不信任对方的 TLS 证书：代理或镜像使用了自己的证书",
        ),
        Text(
            "name the authority's file in SSL_CERT_FILE and REQUESTS_CA_BUNDLE, or use a hub that has a public one",
            "在 SSL_CERT_FILE 和 REQUESTS_CA_BUNDLE 中指定 CA 证书文件，或改用证书公开可信的站点",
        ),
    ),
    rule(
        "access-denied-by-hub",
        r"GatedRepoError|Access to model .+ is restricted|401 (?:Client Error|Unauthorized)|403 (?:Client Error"
        r"|Forbidden)"
        r"|Cannot access gated repo",
        Text("the model hub refuses access to this model", "模型站点拒绝访问该模型"),
        Text(
            "accept its licence on its page and log in with `hf auth login`",
            "在模型页面接受许可协议，并用 `hf auth login` 登录",
        ),
    ),
    rule(
        "hub-refuses",
        r"429 (?:Client Error|Too Many Requests)|50[0234] (?:Server Error|Service Unavailable|Bad Gateway"
        r"|Gateway Timeout"
        r"|Internal Server Error)|HfHubHTTPError: .*(?:429|50\d)",
        Text(
            "the model hub answers with an error of its own, or limits the number of requests",
            "模型站点返回服务端错误，或限制了请求频率",
        ),
        Text(
            "wait and resume, log in with `hf auth login`, use a mirror (HF_ENDPOINT), or name a local folder",
            "稍后恢复运行，用 `hf auth login` 登录，使用镜像（HF_ENDPOINT），或改用本地目录",
        ),
    ),
    rule(
        "download-broken",
        r"^(?:\w+\.)*(?:ChunkedEncodingError|RemoteProtocolError|IncompleteRead|ProtocolError)\b"
        r"|^OSError: Consistency check failed: file should be of size|^RuntimeError: Data processing error: .*CAS",
        Text("a download from the hub broke off", "从站点下载时连接中断"),
        Text(
            "resume the run: files that are whole are not downloaded again; HF_ENDPOINT names a mirror, "
            "HF_HUB_DISABLE_XET=1 uses plain downloads",
            "恢复运行：已完整的文件不会重新下载；可用 HF_ENDPOINT 指定镜像，HF_HUB_DISABLE_XET=1 改用普通下载",
        ),
    ),
    rule(
        "hub-unreachable",
        r"We couldn't connect to '(\S+)'|LocalEntryNotFoundError|OfflineModeIsEnabled|Max retries exceeded"
        r"|Name or service not known|Temporary failure in name resolution|Cannot reach .*offline mode is enabled"
        r"|(?:httpx|httpcore|requests\.exceptions)\.(?:ConnectError|ConnectTimeout|ReadTimeout|ConnectionError)"
        r"|^urllib3\.exceptions\.ReadTimeoutError: HTTPSConnectionPool",
        Text(
            "the model hub cannot be reached, and the model is not in the local cache",
            "无法连接模型站点，且本地缓存中没有该模型",
        ),
        Text(
            "check the network or proxy (HF_ENDPOINT for a mirror), or name a local folder under `model:`",
            "检查网络或代理（镜像用 HF_ENDPOINT），或在 `model:` 中填写本地目录",
        ),
    ),
)
