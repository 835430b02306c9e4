"""The README's examples, as they stand, one after the other against a real broker."""

import re

from conftest import ROOT

import ecs

README = (ROOT / "tools/python/README.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


def test_every_example_of_the_readme_runs(beamline, monkeypatch, capsys):
    assert list(EXAMPLES) == ["agent", "client", "later", "errors"]
    assert README.count("```python") == len(EXAMPLES)
    monkeypatch.chdir(beamline.folder)
    names = {}
    for name, example in EXAMPLES.items():
        exec(compile(example, f"README.md, {name}", "exec"), names)
        for made in ("agent", "client"):
            if made in names:
                beamline._open(names[made])
    printed = capsys.readouterr().out
    for expected in (
        "['x01/pump', 'x01/vacuum']", "3.2", "1000.0", "800.0", "{'gauge': 'main', 'pressure': 3.2}", "x01/pump 1 of 3",
        "ok vented", "Bearing at 61 degrees", "Progress(done=", "'asked': 0.1", "x01/pump did not answer in time",
        "call.run pump.measure  anonymous -> x01/pump", "out_of_range x01/pump speed is 2000; allowed is 0 to 1500 Hz",
        "event.run",
    ):  # fmt: skip
        assert expected in printed, f"{expected!r} is not in\n{printed}"


def test_every_exception_is_in_the_table_of_the_readme():
    rare = {"EcsError", "BadMessage", "UnsupportedVersion", "Cancelled", "Forbidden", "NotRegistered"}
    public = [getattr(ecs, name) for name in ecs.__all__]
    known = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, Exception)}
    assert {name for name in known - rare if f"`{name}`" not in README} == set()
