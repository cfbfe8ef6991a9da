"""The error tree: one exit code a class, and each stands in the troubleshooting page."""

from __future__ import annotations

from orchestrator import errors


def test_no_two_errors_share_an_exit_code():
    classes = [errors.OrchError, *errors.OrchError.__subclasses__()]
    codes = [cls.exit_code for cls in classes]
    assert len(classes) >= 10
    assert len(set(codes)) == len(codes)


def test_every_exit_code_stands_in_the_troubleshooting_page(root):
    page = (root / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for cls in (errors.OrchError, *errors.OrchError.__subclasses__()):
        assert f"| {cls.exit_code} |" in page, cls.__name__


def test_a_place_reads_as_editors_link_it():
    assert str(errors.Where("a.yaml", 3, 7)) == "a.yaml:3:7"
    assert str(errors.Where("a.yaml")) == "a.yaml"
