"""Secrets are known by the names that tools use, and the hub's token never stands where it is logged."""

from __future__ import annotations

import pytest

from orchestrator.machine.secrets import describe_secret, find_secret_values, is_secret, rename_hub_token

NAMES = (
    "HF_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY DB_PASSWORD MY_KEY DB_PWD MYSQL_PWD GITHUB_PAT SSHPASS PASSPHRASE "
    "SSH_PASSPHRASE HF_TOKENS HUGGINGFACE_TOKEN_READ AUTH_HEADER COOKIE ALIYUN_AK ALIYUN_SK SLACK_WEBHOOK_URL "
    "AZURE_STORAGE_CONNECTION_STRING SMTP_PASS SENTRY_DSN hf_token TOKEN OPENAI_API_KEYS SSH_PRIVATE_KEY "
    "LDAP_BINDPW ADMIN_PW ROOTPW DBPASS AWS_CREDS NPM_AUTH"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_names_of_secrets_are_known(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM",
        "GENERATIVE_RERANKER_POSITIVE_TOKEN",
        "OMP_NUM_THREADS",
        "KEYS",
        "PWD",
        "OLDPWD",
        "MAX_NEW_TOKENS",
        "COMPASS",
        "VLLM_MAX_NUM_BATCHED_TOKENS",
        "HF_TOKEN_PATH",
        "AWS_SHARED_CREDENTIALS_FILE",
        "SSH_AUTH_SOCK",
        "XAUTHORITY",
        "PATH",
        "DISK",
        "TOKEN_LIMIT",
        "BYPASS",
    ],
)
def test_names_that_only_look_like_secrets_are_not(name):
    assert not is_secret(name)


def test_the_hub_s_token_moves_to_the_name_that_nobody_logs():
    assert rename_hub_token({"HF_TOKEN": "x", "A": "b"}) == {"HUGGING_FACE_HUB_TOKEN": "x", "A": "b"}
    assert rename_hub_token({"A": "b"}) == {"A": "b"}


KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "text", [f"run_name: {KEY}", f"# {KEY}", f"a{KEY}b", "url: 'p\\\"ss w\\u00f6rd'", "x: p%22ss%20w%C3%B6rd"]
)
def test_a_text_with_a_value_of_the_environment_is_known_and_not_repeated(text):
    env = {"WANDB_API_KEY": KEY, "DB_PWD": 'p"ss wörd', "HOME": "/root"}
    assert describe_secret(text, env) in {f"the value of {name}, a secret of your environment" for name in env}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "train: {seed: 1}"),
        ("true", "merge: true"),
        ("reranker", "task: reranker"),
        ("flagembedding", "backend: flagembedding"),
        ("00000000", "x: 00000000"),
        ("/etc/passwd", "train: /etc/passwd"),
        ("optimized", "output: unoptimized_model"),
        ("", "name: x"),
    ],
)
def test_values_that_are_short_or_common_or_paths_are_no_secrets_of_a_recipe(value, text):
    assert describe_secret(text, {"MY_TOKEN": value}) is None


def test_a_key_of_several_lines_is_known_by_each_of_them():
    value = "-----BEGIN EC KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY\nshort\n-----END EC KEY-----"
    assert "MHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY" in find_secret_values({"DEPLOY_KEY": value})
    assert not [
        form
        for form in find_secret_values({"DEPLOY_KEY": value})
        if form in {"short", value.split("\n", maxsplit=1)[0]}
    ]


@pytest.mark.parametrize(
    "text",
    [
        "https://bucket.s3.amazonaws.com/train.jsonl?X-Amz-Signature=0123456789abcdef0123456789abcdef",
        "https://account.blob.core.windows.net/data/train.jsonl?se=2027&sig=abcdEFGH12345678%3D",
        "https://oapi.dingtalk.com/robot/send?access_token=0123456789abcdef0123456789abcdef",
        "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        "AccountName=mine;AccountKey=abcd1234abcd1234abcd1234==",
        f"SG.{'a' * 22}.{'b' * 43}",
        f"sk-proj-{'a1' * 20}",
    ],
)
def test_what_opens_a_door_by_itself_is_known_by_its_form(text):
    assert describe_secret(text, {}) == "what looks like a token"


@pytest.mark.parametrize(
    "text",
    [
        "/data/sk-learn-something-very-long-really-long-name",
        "hf://datasets/owner/name@refs/convert/train.jsonl",
        "https://mirror.example/data.jsonl?signature=v2&token=1",
        "git+https://github.com/owner/name@main",
    ],
)
def test_ordinary_paths_and_urls_are_no_secrets(text):
    assert describe_secret(text, {}) is None
