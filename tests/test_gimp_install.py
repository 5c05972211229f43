"""Installing the GIMP plug-in, and the doctor's answers; no GIMP is needed."""

import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from styleplug import StyleplugError, gimp
from styleplug.cli import main

ROOT = Path(__file__).parents[1]
STANDIN = [sys.executable, "-u", str(ROOT / "tests" / "gimp" / "standin_worker.py")]


@pytest.fixture
def profile(tmp_path):
    return new_profile(tmp_path, "native")


def new_profile(folder, kind):
    path = folder / "GIMP" / "3.0"
    path.mkdir(parents=True)
    return gimp.Profile(path, kind)


def failure(profile):
    """The first thing that the doctor finds wrong."""
    return next(finding for finding in gimp.doctor([profile]) if not finding.ok)


def refuse(path, *_args, ignore_errors=False):
    if not ignore_errors:
        raise PermissionError(13, "Permission denied", str(path))


def tool(folder, name, script):
    """Put a program called ``name`` into ``folder``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("platform", "folder", "kind"),
    [
        ("linux", ".config/GIMP/3.0", "native"),
        ("linux", ".var/app/org.gimp.GIMP/config/GIMP/3.2", "flatpak"),
        ("linux", "snap/gimp/current/.config/GIMP/3.0", "snap"),
        ("darwin", "Library/Application Support/GIMP/3.0", "native"),
        ("win32", "AppData/Roaming/GIMP/3.2", "native"),
        (
            "win32",
            "AppData/Local/Packages/GIMP.43237F7_x/LocalCache/Roaming/GIMP/3.0",
            "native",
        ),
    ],
)
def test_profiles_are_found_where_each_packaging_puts_them(
    tmp_path, platform, folder, kind
):
    (tmp_path / folder).mkdir(parents=True)
    found = gimp.find_profiles(environ={}, platform=platform, home=tmp_path)
    assert found == [gimp.Profile(tmp_path / folder, kind)]


def test_several_profiles_are_found_newest_first_and_no_others(tmp_path):
    for version in ("2.10", "3.0", "3.2", "3.10", "3", "3.x"):
        (tmp_path / "GIMP" / version).mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    found = gimp.find_profiles(environ=environ, platform="linux", home=tmp_path)
    assert [profile.path.name for profile in found] == ["3.10", "3.2", "3.0"]


def test_gimp3_directory_is_the_only_profile_then(tmp_path):
    (tmp_path / ".config/GIMP/3.0").mkdir(parents=True)
    environ = {"GIMP3_DIRECTORY": str(tmp_path / "mine")}
    found = gimp.find_profiles(environ=environ, platform="linux", home=tmp_path)
    assert found == [gimp.Profile(tmp_path / "mine")]


def test_a_relative_gimp3_directory_lies_in_the_home_folder(tmp_path):
    environ = {"GIMP3_DIRECTORY": "mine"}
    found = gimp.find_profiles(environ=environ, platform="linux", home=tmp_path)
    assert found == [gimp.Profile(tmp_path / "mine")]


def test_install_puts_an_executable_of_the_folders_name_and_the_command(profile):
    assert gimp.install([profile], STANDIN) == [profile]
    main_file = profile.plugin / f"{profile.plugin.name}.py"
    assert main_file.stat().st_mode & stat.S_IXUSR
    assert main_file.read_text().startswith("#!/usr/bin/env python3\n")
    config = json.loads((profile.plugin / "worker.json").read_text())
    assert config["command"] == STANDIN
    assert [path.name for path in profile.plugin.parent.iterdir()] == ["styleplug_gimp"]


def test_install_replaces_an_older_version(profile):
    profile.plugin.mkdir(parents=True)
    (profile.plugin / "old.py").touch()
    gimp.install([profile], STANDIN)
    gimp.install([profile], STANDIN)
    assert not (profile.plugin / "old.py").exists()


def test_install_without_gimp_says_what_to_do():
    with pytest.raises(StyleplugError, match="start GIMP 3 once"):
        gimp.install([], STANDIN)


def test_install_into_a_folder_that_is_not_there_makes_none(tmp_path, capsys):
    missing = tmp_path / "GIMP" / "3.O"
    assert main(["gimp", "install", "--profile", str(missing)]) == 1
    assert f"There is no folder {missing}; name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "words"),
    [("GIMP/2.10", "belongs to GIMP 2"), ("GIMP/3.0/plug-ins", "no settings"),
     ("GIMP", "no settings")],
)  # fmt: skip
def test_a_folder_that_is_no_gimp_3_s_is_told(tmp_path, capsys, folder, words):
    for each in ("GIMP/2.10", "GIMP/3.0/plug-ins"):
        (tmp_path / each).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    place = ["--profile", str(tmp_path / folder)]
    assert main(["gimp", "install", *place]) == 1
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["gimp", "doctor", *place]) == 1
    told = capsys.readouterr().out
    assert words in told
    assert "-> Name the settings folder of GIMP 3" in told


def test_install_touches_no_profile_before_all_is_known(profile, monkeypatch):
    def refuse():
        raise StyleplugError("styleplug is not installed")

    monkeypatch.setattr(gimp, "worker_command", refuse)
    with pytest.raises(StyleplugError, match="not installed"):
        gimp.install([profile])
    assert list(profile.path.iterdir()) == []


def test_install_says_why_a_file_cannot_be_written(profile, monkeypatch):
    def fill_up(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fill_up)
    with pytest.raises(StyleplugError, match=r"\(No space left on device\)"):
        gimp.install([profile], STANDIN)
    assert list(profile.plugin.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_what_windows_would_keep_from_gimp_is_told(profile, tmp_path):
    """A link stands for what happens to the files of a Python from the Store."""
    package = tmp_path / "Packages" / "PythonSoftwareFoundation.Python.3.12_qbz5"
    kept = package / "LocalCache" / "Roaming" / "GIMP" / "3.0" / "plug-ins"
    kept.mkdir(parents=True)
    profile.plugin.parent.symlink_to(kept)
    with pytest.raises(StyleplugError, match=r"Microsoft Store.*from python\.org"):
        gimp.install([profile], STANDIN)
    assert list(kept.iterdir()) == []
    gimp.install([gimp.Profile(kept.parent)], STANDIN)  # a GIMP from the Store
    assert "Microsoft Store" in failure(profile).text
    assert "Microsoft Store" not in failure(gimp.Profile(kept.parent)).text


def test_uninstall_leaves_nothing_and_other_plug_ins_alone(profile):
    gimp.install([profile], STANDIN)
    other = profile.plugin.with_name("other")
    other.mkdir()
    assert gimp.uninstall([profile]) == [profile]
    assert list(profile.plugin.parent.iterdir()) == [other]
    assert gimp.uninstall([profile]) == []


def test_uninstall_removes_a_link_not_what_it_leads_to(profile, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    profile.plugin.parent.mkdir(parents=True)
    profile.plugin.symlink_to(source)
    gimp.uninstall([profile])
    assert source.is_dir()
    assert not os.path.lexists(profile.plugin)


@pytest.mark.parametrize(("owner", "name"), [(Path, "rename"), (shutil, "rmtree")])
def test_uninstall_says_why_it_cannot(profile, monkeypatch, owner, name):
    gimp.install([profile], STANDIN)
    before = sorted(profile.plugin.parent.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        with pytest.raises(
            StyleplugError,
            match=r"removed from .*\(Permission denied\).* and styleplug_gimp in it",
        ):
            gimp.uninstall([profile])
    assert sorted(profile.plugin.parent.rglob("*")) == before
    assert gimp.uninstall([profile]) == [profile]


@pytest.mark.parametrize("do", [gimp.uninstall, gimp.install])
def test_what_an_earlier_attempt_left_in_the_way_is_named(profile, monkeypatch, do):
    monkeypatch.setattr(gimp, "worker_command", lambda: STANDIN)
    gimp.install([profile])
    (profile.partial / "old").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(StyleplugError, match=r"and \.styleplug_gimp\.partial in it"):
        do([profile])


def test_doctor_finds_no_profile():
    assert [finding.ok for finding in gimp.doctor([])] == [False]


def test_doctor_finds_the_plug_in_missing(profile, monkeypatch):
    elsewhere = "Run 'styleplug gimp install --profile {}'."
    assert failure(profile).advice == elsewhere.format(profile.path)
    spaced = gimp.Profile(profile.path.parent / "3.0 of mine", "native")
    spaced.path.mkdir()
    quote = '"' if sys.platform == "win32" else "'"
    assert failure(spaced).advice == elsewhere.format(f"{quote}{spaced.path}{quote}")
    assert gimp._word(Path("My GIMP"), "win32") == '"My GIMP"'
    monkeypatch.setattr(gimp, "find_profiles", lambda: [profile])
    assert failure(profile).advice == "Run 'styleplug gimp install'."


def test_doctor_finds_another_version(profile):
    gimp.install([profile], STANDIN)
    (profile.plugin / "layer.py").write_text("# older")
    assert "another version" in failure(profile).text


def test_doctor_says_what_cannot_be_read(profile, monkeypatch):
    gimp.install([profile], STANDIN)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    finding = failure(profile)
    assert "cannot be read (Permission denied)" in finding.text
    assert str(profile.plugin) in finding.text
    assert finding.advice.startswith(f"Make {profile.plugin.parent} ")


@pytest.mark.skipif(os.name != "posix", reason="there are no executable bits")
def test_doctor_finds_the_executable_bit_missing(profile):
    gimp.install([profile], STANDIN)
    (profile.plugin / "styleplug_gimp.py").chmod(0o644)
    assert "not executable" in failure(profile).text


def test_doctor_finds_that_gimp_looks_elsewhere(profile):
    gimp.install([profile], STANDIN)
    (profile.path / "gimprc").write_text('(plug-in-path "/opt/plug-ins")\n')
    assert "own plug-in folder" in failure(profile).text
    assert "Preferences > Folders" in failure(profile).advice


@pytest.mark.parametrize("folder", ["${gimp_dir}/plug-ins", "${gimp_dir}/plug-ins/"])
def test_doctor_accepts_the_usual_folders(profile, folder):
    gimp.install([profile], STANDIN)
    (profile.path / "gimprc").write_text(
        f'(plug-in-path "/opt/\\"x\\"{os.pathsep}{folder}")\n'
    )
    assert "Folders" not in failure(profile).advice


def test_doctor_reads_the_backslashes_that_gimp_doubles(tmp_path):
    profile = new_profile(tmp_path / "back\\slash", "native")
    gimp.install([profile], STANDIN)
    folder = str(profile.plugin.parent).replace("\\", "\\\\")
    (profile.path / "gimprc").write_text(f'(plug-in-path "{folder}")\n')
    assert "Folders" not in failure(profile).advice


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nonexistent/python"], "/nonexistent/python"),
        ([sys.executable, "-c", "raise SystemExit('oh no')"], "oh no"),
        ([], "does not know which Python"),
    ],
)
def test_doctor_finds_that_the_worker_does_not_start(profile, command, words):
    gimp.install([profile], STANDIN)
    (profile.plugin / "worker.json").write_text(json.dumps({"command": command}))
    findings = list(gimp.doctor([profile]))
    [worker] = [finding for finding in findings if "worker" in finding.text]
    assert not worker.ok
    assert words in worker.text
    assert f"gimp install --profile {gimp._word(profile.path)}'" in worker.advice


def test_doctor_reads_what_is_told_in_another_encoding(profile, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # as on Windows
    gimp.install([profile], ["/nonexistent/größer"])
    [worker] = [f for f in gimp.doctor([profile]) if "worker" in f.text]
    assert "/nonexistent/größer" in worker.text


def test_doctor_is_content_when_gimp_has_it_in_the_menu(profile):
    gimp.install([profile], STANDIN)
    (profile.path / "pluginrc").write_text('(proc-def "plug-in-styleplug" 1\n')
    findings = [
        finding
        for finding in gimp.doctor([profile])
        if "/usr/bin/python3" not in finding.text  # that of this machine
    ]
    assert [finding.text for finding in findings if not finding.ok] == []
    assert "2 styles" in findings[-2].text


def test_doctor_does_not_mind_the_settings_of_a_gimp_that_was_replaced(tmp_path):
    old, new = (gimp.Profile(tmp_path / name) for name in ("3.0", "3.2"))
    for profile in old, new:
        profile.path.mkdir()
        gimp.install([profile], STANDIN)
    assert "Restart GIMP" in list(gimp.doctor([new, old]))[-1].advice
    (new.path / "pluginrc").write_text('(proc-def "plug-in-styleplug" 1\n')
    last = list(gimp.doctor([new, old]))[-1]
    assert last.ok
    assert "a newer one has it in the menu" in last.text


def test_doctor_tells_not_yet_started_from_refused(profile):
    gimp.install([profile], STANDIN)
    last = list(gimp.doctor([profile]))[-1]
    assert "Restart GIMP" in last.advice
    (profile.path / "pluginrc").write_text("(protocol-version 274)\n")
    later = os.stat(profile.path / "pluginrc").st_mtime + 10
    os.utime(profile.path / "pluginrc", (later, later))
    last = list(gimp.doctor([profile]))[-1]
    assert "gimp --verbose" in last.advice


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Flatpak is for Linux")
@pytest.mark.parametrize("permitted", [True, False])
def test_doctor_asks_the_flatpak_and_names_the_permission(
    tmp_path, monkeypatch, permitted
):
    """A stand-in for flatpak runs the client, or refuses as the sandbox does."""
    profile = new_profile(tmp_path, "flatpak")
    gimp.install([profile], STANDIN)
    script = f'shift 3; exec {sys.executable} "$@"'
    if not permitted:
        script = "echo Portal call failed: org.freedesktop.DBus.Error >&2; exit 1"
    tool(tmp_path, "flatpak", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    [worker] = [f for f in gimp.doctor([profile]) if "worker" in f.text]
    assert worker.ok == permitted
    if not permitted:
        assert "--talk-name=org.freedesktop.Flatpak org.gimp.GIMP" in worker.advice


@pytest.fixture
def shared_profile(tmp_path, monkeypatch):
    """The ordinary settings folder of a home; a Flatpak of GIMP 3 uses it, too."""
    for name in ("GIMP3_DIRECTORY", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(gimp, "worker_command", lambda: STANDIN)
    path = tmp_path / ".config/GIMP/3.0"
    path.mkdir(parents=True)
    return gimp.Profile(path)


def install_flatpak(folder, monkeypatch, run, info="exit 0"):
    tool(folder, "flatpak", f'[ "$1" = info ] && {info}\n{run}')
    monkeypatch.setenv("PATH", str(folder))


REFUSE = "echo Portal call failed: org.freedesktop.DBus.Error.ServiceUnknown; exit 1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Flatpak is for Linux")
def test_a_flatpak_with_the_ordinary_settings_is_asked_too(
    shared_profile, tmp_path, monkeypatch
):
    gimp.install([shared_profile], STANDIN)
    install_flatpak(tmp_path, monkeypatch, f'shift 3; exec {sys.executable} "$@"')
    outside, inside = (f for f in gimp.doctor() if "worker" in f.text)
    assert outside.ok
    assert inside.ok
    assert inside.text == f"in the Flatpak of GIMP {outside.text}"
    install_flatpak(tmp_path, monkeypatch, REFUSE)
    outside, inside = (f for f in gimp.doctor() if "worker" in f.text)
    assert outside.ok
    assert not inside.ok
    assert "--talk-name=org.freedesktop.Flatpak org.gimp.GIMP" in inside.advice


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Flatpak is for Linux")
def test_install_names_the_permission_that_a_flatpak_needs(
    shared_profile, tmp_path, monkeypatch, capsys
):
    permission = "--talk-name=org.freedesktop.Flatpak org.gimp.GIMP\n"
    install_flatpak(tmp_path, monkeypatch, REFUSE)
    assert main(["gimp", "install"]) == 0
    assert permission in capsys.readouterr().out
    install_flatpak(tmp_path, monkeypatch, REFUSE, info="exit 1")
    assert main(["gimp", "install"]) == 0
    assert permission not in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others have one GIMP")
def test_doctor_does_not_mind_a_gimp_2_beside(profile, tmp_path, monkeypatch):
    gimp.install([profile], STANDIN)
    (profile.path / "pluginrc").write_text('(proc-def "plug-in-styleplug" 1\n')
    tool(tmp_path, "gimp", "echo GNU Image Manipulation Program version 2.10.36")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [f.text for f in gimp.doctor([profile]) if not f.ok] == []


def test_doctor_knows_that_a_snap_sees_no_hidden_folders(tmp_path):
    profile = new_profile(tmp_path, "snap")
    gimp.install([profile], ["/opt/venv/bin/python"])
    assert "Snap" in failure(profile).text


def test_commands_examine_and_uninstall(profile, capsys):
    gimp.install([profile], STANDIN)
    place = ["--profile", str(profile.path)]
    assert main(["gimp", "doctor", *place]) == 1  # GIMP was not started yet
    assert "-> Restart GIMP" in capsys.readouterr().out
    assert main(["gimp", "uninstall", *place]) == 0
    assert str(profile.plugin) in capsys.readouterr().out
    assert not profile.plugin.exists()
    assert main(["gimp", "uninstall", *place]) == 0
    assert "installed nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("on_path", [False, True])
def test_install_from_a_source_folder_is_refused(on_path, tmp_path):
    """GIMP starts the worker elsewhere, where it would not be found."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if on_path:
        environ["PYTHONPATH"] = str(ROOT)
    venv.create(tmp_path / "bare", symlinks=os.name != "nt")
    folder = "Scripts" if os.name == "nt" else "bin"
    done = subprocess.run(
        [
            *(tmp_path / "bare" / folder / "python", "-m", "styleplug"),
            *("gimp", "install", "--profile", tmp_path),
        ],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "pip install" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
@pytest.mark.parametrize("refused", ["-su", "-u"])
def test_the_worker_sees_the_users_own_packages_where_it_needs_them(
    tmp_path, monkeypatch, refused
):
    """A stand-in for a Python that has some only where -s does not look."""
    told = "ModuleNotFoundError: No module named 'torch'"
    tool(tmp_path, "python", f'[ $1 = {refused} ] || exit 0\necho "{told}"; exit 1')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    used = "-u" if refused == "-su" else "-su"
    expected = [sys.executable, used, "-m", "styleplug", "worker"]
    assert gimp.worker_command() == expected
    tool(tmp_path, "python", f'echo "{told}"; exit 1')
    with pytest.raises(StyleplugError, match=rf"not installed in .* \({told}\); run"):
        gimp.worker_command()


def test_the_wheel_carries_the_plug_in(tmp_path):
    source = tmp_path / "source"
    runpy.run_path(str(ROOT / "space" / "deploy.py"))["copy_source"](source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--no-index", "-w", tmp_path, source),
        ],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = tmp_path / "site"
    (tmp_path / "3.0").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "styleplug", "gimp", "install"),
            *("--profile", tmp_path / "3.0"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0
    installed = tmp_path / "3.0" / "plug-ins" / "styleplug_gimp"
    names = {path.name for path in installed.glob("*.py")}
    originals = {path.name for path in (ROOT / "gimp_plugin").glob("*/*.py")}
    assert names == originals
