"""The README's examples, as they stand, one after the other against a real broker."""

import re
import shlex
import subprocess

from conftest import ECS_CLI, ROOT, wait_for

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


def test_agent_of_the_readme_is_a_program_that_does_what_the_first_page_asks_of_it(beamline):
    """`agent.run()` as its last line, as that page says; then the commands that it has."""
    source = EXAMPLES["agent"].replace("# agent.run()", "agent.run()")
    assert source != EXAMPLES["agent"] and source.splitlines()[-1].startswith("agent.run()")
    (beamline.folder / "pump.py").write_text(source)
    pump = beamline.process(
        f"os.chdir({str(beamline.folder)!r}); exec(open('pump.py').read(), {{'__name__': '__main__'}})"
    )
    client = beamline.client()
    wait_for("the alarm", lambda: client.alarms())
    commands = commands_of(beamline, "## Talk to subsystems", "    ecs-cli ")
    assert len(commands) == 7, commands
    said = [run(beamline, command) for command in commands]
    for expected, printed in zip(
        ("x01/pump", "turbo pump", "3.2 mbar", "vented", "pressure", "Bearing", "pressure"), said
    ):
        assert expected in printed, said
    pump.terminate()
    assert pump.wait(20) == 0


def test_keys_of_the_first_page_are_made_used_and_revoked_as_it_says(stopped_beamline):
    commands = commands_of(stopped_beamline, "## Let others in", "ecs-cli ")
    assert [command.split()[1] for command in commands] == ["keys", "keys", "--key", "keys", "keys"]
    for command in commands[:2]:
        run(stopped_beamline, command)
    stopped_beamline.start(key=stopped_beamline.folder / "anna.key")
    said = [run(stopped_beamline, command) for command in commands[2:]]
    assert "beamline x01" in said[0] and "anna" in said[1]
    assert "anna" not in run(stopped_beamline, commands[3])


def commands_of(beamline, heading, begin):
    """The commands below a heading of the repository's README, without their comments."""
    section = (ROOT / "README.md").read_text().split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line.split("  #")[0].strip() for line in section.splitlines() if line.startswith(begin)]


def run(beamline, command):
    """In the folder of `beamline.toml`, as a person does it."""
    arguments = [ECS_CLI, *shlex.split(command)[1:]]
    ended = subprocess.run(arguments, cwd=beamline.folder, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    return ended.stdout


def test_every_exception_is_in_the_table_of_the_readme():
    rare = {"EcsError", "BadMessage", "UnsupportedVersion", "Cancelled", "Forbidden", "NotRegistered"}
    public = [getattr(ecs, name) for name in ecs.__all__]
    known = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, Exception)}
    assert {name for name in known - rare if f"`{name}`" not in README} == set()
