"""Install the plug-in for GIMP 3, remove it, and find out why it does not work.

The plug-in runs in GIMP's Python, which has no torch. ``worker.json`` in its folder
records the command that starts the worker in this Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import StyleplugError

PLUGIN = "styleplug_gimp"
PROCEDURE = "plug-in-styleplug"
FLATPAK_APP = "org.gimp.GIMP"
FLATPAK_PERMISSION = (
    f"flatpak override --user --talk-name=org.freedesktop.Flatpak {FLATPAK_APP}"
)
"""The command that allows the Flatpak of GIMP to start the worker outside of it."""


@dataclass(frozen=True)
class Profile:
    """A settings folder of GIMP 3."""

    path: Path
    """Path of the folder, such as ``~/.config/GIMP/3.0``."""
    kind: str = "native"
    """``native``, ``flatpak`` or ``snap``."""

    @property
    def plugin(self) -> Path:
        """The folder of the plug-in, installed or not."""
        return self.path / "plug-ins" / PLUGIN

    @property
    def partial(self) -> Path:
        """The temporary folder used while the plug-in is installed or removed.

        No file in it has the folder's name, so GIMP ignores it.
        """
        return self.plugin.with_name(f".{PLUGIN}.partial")


@dataclass(frozen=True)
class Finding:
    """The result of one of the doctor's checks."""

    ok: bool
    text: str
    advice: str = ""
    """The one step that helps, if not ok."""


def find_profiles(
    only: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    home: Path | None = None,
) -> list[Profile]:
    """Return the settings folders of GIMP 3 on this machine, newest GIMP first.

    ``only`` names one of them, or another folder that GIMP uses.
    """
    home = home or Path.home()
    if only is None and environ.get("GIMP3_DIRECTORY"):
        only = home / environ["GIMP3_DIRECTORY"]  # as GIMP resolves a relative path
    if only is not None:
        only = only.expanduser().absolute()
        inside = {".var": "flatpak", "snap": "snap"}
        first = only.relative_to(home).parts[:1] if home in only.parents else ()
        return [Profile(only, inside.get("".join(first), "native"))]
    if platform == "win32":
        roaming = Path(environ.get("APPDATA", home / "AppData/Roaming"))
        local = Path(environ.get("LOCALAPPDATA", home / "AppData/Local"))
        from_store = local.glob("Packages/*GIMP*/LocalCache/Roaming")
        roots = [("native", folder / "GIMP") for folder in (roaming, *from_store)]
    elif platform == "darwin":
        roots = [("native", home / "Library/Application Support/GIMP")]
    else:
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        roots = [
            ("native", config / "GIMP"),
            ("flatpak", home / ".var/app" / FLATPAK_APP / "config/GIMP"),
            ("snap", home / "snap/gimp/current/.config/GIMP"),
        ]
    profiles = [
        (int(match[1]), Profile(path, kind))
        for kind, root in roots
        for path in (root.iterdir() if root.is_dir() else ())
        if (match := re.fullmatch(r"3\.(\d+)", path.name)) and path.is_dir()
    ]
    return [profile for _, profile in sorted(profiles, key=lambda item: -item[0])]


def worker_command() -> list[str]:
    """Return the command that starts the worker in this Python.

    Raises :class:`StyleplugError` if styleplug is not installed in it but runs from a
    source folder that GIMP would not find.
    """
    elsewhere = os.path.dirname(sys.executable)
    # The plug-in removes these variables, such as PYTHONPATH.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # Without -s the user's own packages could shadow those of a virtual environment;
    # with it, packages from `pip install --user` are not found.
    for flags in ("-su", "-u"):
        command = [sys.executable, flags, "-m", "styleplug", "worker"]
        check = [sys.executable, flags, "-c", "import styleplug.engine"]
        ok, reason = _run(check, 180, elsewhere, environ)
        if ok:
            return command
    raise StyleplugError(
        f"styleplug is not installed in {sys.executable} ({reason}); run "
        "'pip install styleplug' there (or 'pip install -e .' in its source)."
    )


def plugin_source() -> Path:
    """Return the folder of the plug-in that belongs to this styleplug."""
    root = Path(__file__).parents[1]
    for folder in (root / PLUGIN, root / "gimp_plugin" / PLUGIN):
        if (folder / f"{PLUGIN}.py").is_file():
            return folder
    raise StyleplugError(
        "The GIMP plug-in is missing from this installation of styleplug; "
        "run 'pip install --force-reinstall --no-deps styleplug'."
    )


def install(
    profiles: Sequence[Profile] | None = None,
    command: Sequence[str] | None = None,
) -> list[Profile]:
    """Install the plug-in in ``profiles``, by default all that exist; return them.

    ``command`` starts the worker; the default is :func:`worker_command`. An earlier
    version is replaced. Raises :class:`StyleplugError` if there is no GIMP 3 or its
    folder cannot be written.
    """
    profiles = find_profiles() if profiles is None else list(profiles)
    if not profiles:
        raise StyleplugError(
            "No settings folder of GIMP 3 was found; start GIMP 3 once, then run "
            "'styleplug gimp install' again (or set GIMP3_DIRECTORY)."
        )
    for profile in profiles:
        if why_not := _unlike_settings(profile.path):
            raise StyleplugError(f"{why_not}; {_SETTINGS}")
    source, command = plugin_source(), list(command or worker_command())
    for profile in profiles:
        target, partial = profile.plugin, profile.partial
        try:
            _remove(partial)
            partial.mkdir(parents=True)
            for file in source.glob("*.py"):
                shutil.copyfile(file, partial / file.name)
            (partial / "worker.json").write_text(
                json.dumps({"command": command}, indent=2), encoding="utf-8"
            )
            main = partial / f"{PLUGIN}.py"
            main.chmod(0o755)  # GIMP ignores it otherwise
            if _kept_apart(main):
                _remove(partial)
                raise StyleplugError(f"{_KEPT_APART}. {_OTHER_PYTHON}")
            _remove(target)
            partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _refused("written to", profile, error) from error
    return profiles


def is_of_flatpak(profile: Profile) -> bool:
    """Return whether the Flatpak of GIMP has its settings in ``profile``.

    The Flatpak of GIMP 3 uses the user's ordinary folder, which another GIMP may share.
    """
    return profile.kind == "flatpak" or (
        profile.kind == "native"
        and sys.platform.startswith("linux")
        and profile in find_profiles()
        and _run(["flatpak", "info", FLATPAK_APP], 30)[0]
    )


_SETTINGS = "name the settings folder of GIMP 3; GIMP creates it on its first start."


def _unlike_settings(path: Path) -> str | None:
    """Return why a folder cannot be a settings folder of GIMP 3, else None."""
    if not path.is_dir():
        return f"There is no folder {path}"
    if re.fullmatch(r"2\.\d+", path.name):
        return f"{path} belongs to GIMP 2, which cannot run the plug-in"
    if path.name == "plug-ins" or any(path.glob("3.*/")):
        return f"{path} has no settings of GIMP in it"
    return None


_KEPT_APART = (
    "This Python is from the Microsoft Store, and what it writes for GIMP is kept by "
    "Windows where GIMP does not look"
)
_OTHER_PYTHON = (
    "Install Python from python.org, styleplug into it, and run its "
    "'styleplug gimp install'."
)


def _kept_apart(path: Path) -> bool:
    """Return whether Windows keeps the file private to the app that wrote it."""
    real = Path(os.path.realpath(path))
    return real.parts.count("LocalCache") > path.parts.count("LocalCache")


def uninstall(profiles: Sequence[Profile] | None = None) -> list[Profile]:
    """Remove the plug-in from ``profiles``; return those that had it.

    Raises :class:`StyleplugError` if a folder cannot be written.
    """
    profiles = find_profiles() if profiles is None else list(profiles)
    had = [profile for profile in profiles if os.path.lexists(profile.plugin)]
    for profile in had:
        try:
            _remove(profile.partial)
            profile.plugin.rename(profile.partial)
            _remove(profile.partial)
        except OSError as error:
            with contextlib.suppress(OSError):
                profile.partial.rename(profile.plugin)
            raise _refused("removed from", profile, error) from error
    return had


def _refused(done: str, profile: Profile, error: OSError) -> StyleplugError:
    """Return an error that names the folders to make writable."""
    there = filter(os.path.lexists, (profile.partial, profile.plugin))
    inside = next((f", and {path.name} in it," for path in there), "")
    return StyleplugError(
        f"The plug-in cannot be {done} {profile.plugin.parent} ({error.strerror}); "
        f"make that folder{inside} writable and try again."
    )


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def doctor(profiles: Sequence[Profile] | None = None) -> Iterator[Finding]:
    """Check the known reasons for "not in the menu" and "does not start".

    Later findings are meaningful only if the earlier ones of the same profile are ok.
    """
    profiles = find_profiles() if profiles is None else list(profiles)
    if not profiles:
        yield Finding(
            False,
            "no settings folder of GIMP 3 was found",
            "Install GIMP 3 and start it once; GIMP 2.10 cannot run this plug-in.",
        )
    in_newer_menu = False
    for profile in profiles:
        try:
            yield from _examine(profile, in_newer_menu)
        except OSError as error:
            yield Finding(
                False,
                f"{error.filename} cannot be read ({error.strerror})",
                f"Make {profile.plugin.parent} and all that is in it readable.",
            )
        in_newer_menu = in_newer_menu or _is_in_menu(profile)


def _examine(profile: Profile, in_newer_menu: bool) -> Iterator[Finding]:
    if why_not := _unlike_settings(profile.path):
        yield Finding(False, why_not, _SETTINGS[0].upper() + _SETTINGS[1:])
        return
    place = "" if profile in find_profiles() else f" --profile {_word(profile.path)}"
    install = f"'styleplug gimp install{place}'"
    again = f"Run {install}."
    plugin, main = profile.plugin, profile.plugin / f"{PLUGIN}.py"
    yield Finding(True, f"GIMP has settings in {profile.path}")
    if not main.is_file():
        yield Finding(False, f"the plug-in is not in {plugin}", again)
        return
    if _kept_apart(main):
        yield Finding(False, _KEPT_APART, _OTHER_PYTHON)
        return
    yield Finding(True, f"the plug-in is in {plugin}")
    if not _same_files(plugin_source(), plugin):
        yield Finding(False, "the plug-in is from another version of styleplug", again)
        return
    if os.name == "posix" and not os.access(main, os.X_OK):
        yield Finding(False, f"{main} is not executable, so GIMP ignores it", again)
        return
    folders = _plugin_path(profile.path / "gimprc")
    if folders is not None and _spelled(plugin.parent) not in folders:
        yield Finding(
            False,
            "GIMP's preferences leave out its own plug-in folder",
            f"Add {plugin.parent} in GIMP: Edit > Preferences > Folders > Plug-ins.",
        )
        return
    if profile.kind == "native" and sys.platform.startswith("linux"):
        yield from _examine_python()
    if profile.kind == "snap":
        yield from _examine_snap(profile, install)
    yield from _examine_worker(profile, install)
    yield _examine_menu(profile, in_newer_menu)


def _word(path: Path, platform: str = sys.platform) -> str:
    """Return ``path`` quoted for a command line."""
    if platform == "win32":
        return subprocess.list2cmdline([str(path)])
    return shlex.quote(str(path))


def _same_files(source: Path, target: Path) -> bool:
    return all(
        (target / path.name).is_file()
        and (target / path.name).read_bytes() == path.read_bytes()
        for path in source.glob("*.py")
    )


def _plugin_path(gimprc: Path) -> list[str] | None:
    """Return the plug-in folders set in GIMP's preferences, spelled by `_spelled`."""
    try:
        text = gimprc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r'^\(plug-in-path "((?:[^"\\]|\\.)*)"\)', text, re.MULTILINE)
    if match is None:
        return None
    folders = re.sub(r"\\(.)", r"\1", match[1])
    folders = folders.replace("${gimp_dir}", str(gimprc.parent))
    return [_spelled(folder) for folder in folders.split(os.pathsep)]


def _spelled(path: str | Path) -> str:
    """Return the normalised spelling of a path."""
    return os.path.normcase(os.path.normpath(os.path.expanduser(path)))


def _run(
    command: Sequence[str],
    timeout: float,
    folder: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[bool, str]:
    """Return whether ``command`` succeeded, and the last line it wrote."""
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**environ, "PYTHONIOENCODING": "utf-8"},
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        return False, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return False, f"no answer within {timeout:.0f} seconds"
    lines = process.stdout.decode(errors="replace").strip().splitlines()
    return process.returncode == 0, lines[-1] if lines else ""


def _examine_python() -> Iterator[Finding]:
    """Check the Python in which the Linux distribution's GIMP runs plug-ins."""
    gimp = next(filter(None, map(shutil.which, ("gimp-3.0", "gimp-3", "gimp"))), None)
    if gimp is None:
        return  # an AppImage, say, which brings its own Python
    _, version = _run([gimp, "--version"], 30)
    number = re.search(r"(\d+)\.\d+(\.\d+)?", version)
    if number and int(number[1]) < 3:
        return  # not the GIMP that the settings belong to
    yield Finding(True, f"{gimp} is GIMP {number[0] if number else '3'}")
    python = "/usr/bin/python3"
    if not os.path.exists(python):
        return
    ok, answer = _run(
        [
            python,
            "-c",
            "import gi; gi.require_version('Gimp', '3.0'); "
            "from gi.repository import Gimp",
        ],
        60,
    )
    yield Finding(
        ok,
        f"{python} can{'' if ok else 'not'} use GIMP's library"
        + ("" if ok else f" ({answer})"),
        ""
        if ok
        else "Install GIMP's Python support: PyGObject and the GIMP introspection "
        "data (Debian and Ubuntu: apt install python3-gi gir1.2-gimp-3.0).",
    )


def _examine_snap(profile: Profile, install: str) -> Iterator[Finding]:
    try:
        inside = Path(_recorded_command(profile)[0]).relative_to(Path.home())
    except (StyleplugError, ValueError):
        inside = Path(".outside")
    if any(part.startswith(".") for part in inside.parts[:1]):
        yield Finding(
            False,
            "the Snap of GIMP cannot start programs outside of your home folder, or "
            "in hidden folders of it",
            "Install styleplug into a virtual environment such as ~/styleplug, and "
            f"run its {install}.",
        )


def _recorded_command(profile: Profile) -> list[str]:
    try:
        config = json.loads((profile.plugin / "worker.json").read_text("utf-8"))
        return [str(word) for word in config["command"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StyleplugError(
            f"{profile.plugin / 'worker.json'} is missing or damaged; "
            "run 'styleplug gimp install'."
        ) from error


def _examine_worker(profile: Profile, install: str) -> Iterator[Finding]:
    """Let the installed plug-in start its worker, as it does in GIMP."""
    client = str(profile.plugin / "worker_client.py")
    if profile.kind != "flatpak":
        yield _try_worker(
            [sys.executable, "-s", client],
            "",
            f"Run {install} with the Python that holds styleplug.",
        )
    if is_of_flatpak(profile):
        yield _try_worker(
            ["flatpak", "run", "--command=python3", FLATPAK_APP, client],
            "in the Flatpak of GIMP ",
            f"Allow GIMP to start styleplug: {FLATPAK_PERMISSION}",
        )


def _try_worker(command: Sequence[str], where: str, advice: str) -> Finding:
    ok, answer = _run(command, 180)
    if ok:
        return Finding(True, where + answer)
    reason = answer.split(". ")[0]
    return Finding(False, f"{where}the worker does not answer: {reason}", advice)


def _examine_menu(profile: Profile, in_newer_menu: bool) -> Finding:
    """Check what GIMP recorded about the plug-in when it last started."""
    if _is_in_menu(profile):
        return Finding(True, "GIMP has it in the menu Filters > Artistic")
    pluginrc = profile.path / "pluginrc"
    main = profile.plugin / f"{PLUGIN}.py"
    if pluginrc.exists() and pluginrc.stat().st_mtime > main.stat().st_ctime:
        return Finding(
            False,
            "GIMP found the plug-in but did not accept it",
            "Start GIMP in a terminal as 'gimp --verbose' and report what it says "
            f"about {PLUGIN}.",
        )
    not_started = "GIMP has not been started since the plug-in was installed"
    if in_newer_menu:  # it replaces this GIMP, which nobody will start
        return Finding(True, f"{not_started}; a newer one has it in the menu")
    return Finding(
        False, not_started, "Restart GIMP; Neural Style is then in Filters > Artistic."
    )


def _is_in_menu(profile: Profile) -> bool:
    try:
        text = (profile.path / "pluginrc").read_text("utf-8", errors="replace")
    except OSError:
        return False
    return f'"{PROCEDURE}"' in text
