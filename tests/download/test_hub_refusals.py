"""Errors name what a hub does not give, and nothing unsafe is accepted from one."""

import pytest
from helpers.hub_server import Hub
from helpers.published_models import DECODER

pytestmark = pytest.mark.long  # each starts the command


def test_a_hub_that_does_not_give_it(get, refuse, hub, monkeypatch):
    faults = {
        f"does not give out {DECODER.id} (status 401)": dict(status=401),
        "log in with `hf auth login` or set HF_TOKEN": dict(status=403),
        f"answered 503 for {DECODER.id}": dict(status=503),
        "did not answer as a hub does": dict(portal=True),
        f"does not have {DECODER.id} with commit": dict(repositories={}),
    }
    for complaint, fault in faults.items():
        with monkeypatch.context() as faulty:
            for name, value in fault.items():
                faulty.setattr(hub, name, value)
            said = refuse(DECODER.name)
        assert complaint in said and hub.url in said
    get(DECODER.name)


def test_another_commit_is_not_taken_instead(refuse, hub):
    hub.repositories[DECODER.id, "main"] = hub.repositories.pop((DECODER.id, DECODER.commit))
    assert f"with commit {DECODER.commit}" in refuse(DECODER.name)


def test_no_network(get, refuse):
    with Hub() as gone:
        pass
    assert f"{gone.url} cannot be reached" in refuse(DECODER.name, HF_ENDPOINT=gone.url)
    get(DECODER.name)


def test_offline_mode(refuse, hub):
    assert "HF_HUB_OFFLINE is set" in refuse(DECODER.name, HF_HUB_OFFLINE="1")
    assert not hub.tokens["hub"]


@pytest.mark.parametrize(
    "path", ["../evil.json", "/tmp/evil.json", "unet/..\\evil.json", "c:evil.json"]
)
def test_a_name_that_leads_out_of_the_folder(refuse, hub, tmp_path, path):
    hub.repositories[DECODER.id, DECODER.commit][path] = b"{}"
    assert "leads out of its folder" in refuse(DECODER.name)
    assert hub.bytes_served == 0 and not list(tmp_path.rglob("*evil*"))


def test_pickles_alone_are_not_enough(refuse, hub):
    files = hub.repositories[DECODER.id, DECODER.commit]
    for path in [path for path in files if path.endswith(".safetensors")]:
        del files[path]
    assert "no safetensors; pickles are not fetched" in refuse(DECODER.name)
    assert hub.bytes_served == 0


def test_the_token_stays_at_the_hub(get, hub):
    get(DECODER.name, HF_TOKEN="hf_secret")
    assert hub.tokens == {"hub": {"Bearer hf_secret"}, "files": {None}}
