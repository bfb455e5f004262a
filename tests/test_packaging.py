"""The three files that describe the environment say the same, and what is installed is what they say."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import workbench

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1].strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
# torch's CUDA builds name their own exact versions of these; the CPU build, which is the one tested here, has none of them.
CUDA = re.compile(r"nvidia-|cuda-|triton")


def closure(requirements):
    """Every distribution that installing these would bring here, by walking the installed metadata."""
    seen, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if CUDA.match(name) or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        for text in importlib.metadata.requires(name) or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, "")):
                waiting.append(child)
    return {name for name, _ in seen}


def test_environment_yml_says_the_same_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert conda == ["python=3.11", "pip"]
    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    options = dict(line.split(maxsplit=1) for line in pip["pip"])
    assert options["-c"] == "constraints.txt"
    extras = re.fullmatch(r"\.\[(.+)\]", options["-e"]).group(1).split(",")
    assert sorted(extras) == sorted(EXTRAS)


def test_the_readme_installs_the_same_extras_under_the_constraints():
    commands = re.findall(r"pip install .*", (ROOT / "README.md").read_text())
    assert len(commands) >= 2
    for command in commands:
        assert "-c constraints.txt" in command
        assert sorted(re.search(r'-e "\.\[(.+?)\]"', command).group(1).split(",")) == sorted(EXTRAS)


def test_constraints_are_exact_and_inside_the_ranges():
    for name, version in PINS.items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"
    for text in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], prereleases=True), text


def test_everything_that_gets_installed_is_pinned_and_is_what_was_tested():
    every = closure([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
    assert len(every) > 100
    assert not every - set(PINS), "not pinned in constraints.txt"
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in every}
    assert installed == {name: PINS[name] for name in every}


def test_imported_packages_are_declared():
    """Every third-party package that the code imports is a dependency by its own name, not by another's."""
    import grimp

    graph = grimp.build_graph("workbench", include_external_packages=True)
    external = {module for module in graph.modules if graph.is_module_squashed(module)}
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"] + EXTRAS["cluster"] + EXTRAS["minilm"]}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        name for name in external if name in distributions and not declared & {canonicalize_name(found) for found in distributions[name]}
    }
    # IPython comes with ipykernel, of the same project and always together
    assert undeclared - {"IPython"} == set()


def test_version_licence_and_command():
    assert importlib.metadata.version("sae-workbench") == PROJECT["version"] == workbench.__version__
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "MIT"
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="workbench")
    assert callable(command.load())


def test_warnings_are_errors_and_every_exception_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"filterwarnings = \[\n(.*?)\n\]", text, re.DOTALL).group(1).splitlines()
    assert listed[0].strip() == '"error",'
    for above, line in zip(listed, listed[1:], strict=False):
        if '"ignore' in line:
            assert above.strip().startswith("#"), line
            assert len(line.split(":")) > 2, f"names no message: {line}"


def test_a_warning_fails_a_test(request):
    import warnings

    with pytest.raises(UserWarning, match="planted"):
        warnings.warn("planted", UserWarning, stacklevel=1)
