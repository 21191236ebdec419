#!/usr/bin/env python3
"""Runs everything `make test` promises and ends with one line of totals.

usage: tools/test.py [--quick] [STAGE ...]

Stages, in order: gcc, suite, checks, cppcheck, clang, sanitized, fuzz. --quick stops after checks.
Environment: BITLOOM_FUZZ_SECONDS (seconds per fuzz target, 10), BITLOOM_ASSETS (folder with
models and corpora; tests that need one that is not there are skipped by name), JOBS.
"""
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOBS = int(os.environ.get("JOBS") or len(os.sched_getaffinity(0)))
FUZZ_SECONDS = int(os.environ.get("BITLOOM_FUZZ_SECONDS") or 10)
FUZZERS_AT_ONCE = 2
CLANG_FORMAT_VERSION = "14."  # other versions lay some lines out otherwise
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}

# Lines of ctest:  `12/40 Test #7: unit_gguf .......   Passed    0.03 sec`
#                  `13/40 Test #8: unit_x ..........***Skipped   0.03 sec`
CTEST_LINE = re.compile(r"^ *\d+/\d+ Test +#\d+: (\S+) \.+ *(.*?) +[\d.]+ sec")


class Totals:
    """Counts results and prints one line for each that is worth reading."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, result, name, detail=""):
        setattr(self, result, getattr(self, result) + 1)
        if result != "passed":
            print(f"  {result.upper()}: {name}" + (f": {detail}" if detail else ""), flush=True)

    def check(self, name, ok, output=""):
        if not ok and output:
            print(output.rstrip()[-8000:])
        self.add("passed" if ok else "failed", name)


def run(command, **options):
    """Runs a command in the root; gives (exit status is 0, its output)."""
    done = subprocess.run(command, cwd=ROOT, text=True, errors="replace", check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    return done.returncode == 0, done.stdout


def build(totals, name, preset, *arguments):
    ok, output = run(["tools/build.sh", preset, *arguments])
    totals.check(name, ok, output)
    return ok


def skip_reasons(folder):
    """What skipped tests said: {name: reason}, from the log that ctest leaves behind."""
    reasons, name = {}, ""
    log = ROOT / folder / "Testing" / "Temporary" / "LastTest.log"
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        match = re.match(r"\d+/\d+ Testing: (\S+)", line)
        if match:
            name = match[1]
        elif line.startswith("SKIPPED: "):
            reasons[name] = line.removeprefix("SKIPPED: ")
    return reasons


def ctest(totals, folder, prefix="", extra_env=None):
    """Runs the suite in a build folder and counts every test of it."""
    command = ["ctest", "--test-dir", folder, "--output-on-failure", "-j", str(JOBS)]
    ok, output = run(command, env={**os.environ, **(extra_env or {})})
    reasons = skip_reasons(folder)
    seen_failure = False
    counted = 0
    for line in output.splitlines():
        match = CTEST_LINE.match(line)
        if not match:
            continue
        counted += 1
        name, verdict = prefix + match[1], match[2].strip("* :")
        if verdict == "Passed":
            totals.add("passed", name)
        elif verdict == "Skipped":
            totals.add("skipped", name, reasons.get(match[1], ""))
        else:
            seen_failure = True
            totals.add("failed", name, verdict)
    if seen_failure:
        print(output[-30000:])
    elif not ok or counted == 0:
        totals.check(f"{prefix}ctest", False, output)


def stage_gcc(totals):
    # The suite would only repeat what the compiler has said already.
    if not build(totals, "build with gcc -Werror", "release", "-DBITLOOM_WERROR=ON"):
        raise StopIteration


def stage_suite(totals):
    ctest(totals, "build")


def sources(*suffixes):
    for top in ("include", "src", "apps", "examples", "tests", "bench"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in suffixes:
                yield str(path.relative_to(ROOT))


def check_format(totals):
    name = "clang-format"
    ok, version = run(["clang-format", "--version"])
    if not ok or f"version {CLANG_FORMAT_VERSION}" not in version:
        totals.add("skipped", name, f"needs version {CLANG_FORMAT_VERSION}x: {version.strip()}")
        return
    totals.check(name, *run(["clang-format", "--dry-run", "-Werror", *sources(".c", ".h")]))


def stage_checks(totals):
    check_format(totals)
    totals.check("include law", *run(["tools/check_layers.py"]))
    totals.check("banned functions and style", *run(["tools/check_style.py"]))


def stage_cppcheck(totals):
    command = ["cppcheck", "--quiet", "--std=c11", "--error-exitcode=1", "-j", str(JOBS),
               "--enable=warning,performance,portability", "--inline-suppr",
               "--suppress=normalCheckLevelMaxBranches",  # newer versions: not every branch taken
               "--library=tools/cppcheck.cfg", "-Iinclude", "-Isrc",
               "-D__x86_64__=1", "-D_GNU_SOURCE=1", "src", "apps", "examples"]
    totals.check("cppcheck", *run(command))


def stage_clang(totals):
    # The sanitized build is the clang build too: one compilation shows warnings and serves both.
    if not build(totals, "build with clang -Werror", "asan"):
        raise StopIteration


def stage_sanitized(totals):
    ctest(totals, "build-asan", "sanitized ", SANITIZER_OPTIONS)


def fuzz(target):
    """Runs one fuzz target for its time; gives (name, passed, output)."""
    work = ROOT / "build-fuzz" / "work" / target.name
    shutil.rmtree(work, ignore_errors=True)
    (work / "corpus").mkdir(parents=True)
    topic = target.name.removeprefix("fuzz_")
    seeds = ROOT / "tests" / "fuzz" / "corpus" / topic
    words = ROOT / "tests" / "fuzz" / f"{topic}.dict"
    command = [str(target), f"-max_total_time={FUZZ_SECONDS}", "-timeout=20", "-rss_limit_mb=2048",
               "-print_final_stats=1", f"-artifact_prefix={work}/", str(work / "corpus")]
    if seeds.is_dir():
        command.append(str(seeds))
    if words.is_file():
        command.append(f"-dict={words}")
    ok, output = run(command, env={**os.environ, **SANITIZER_OPTIONS})
    return target.name, ok, output


def stage_fuzz(totals):
    targets = sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.c"))
    if not targets:
        return
    if not build(totals, "build the fuzz targets", "fuzz", *targets):
        return
    with ThreadPoolExecutor(FUZZERS_AT_ONCE) as pool:
        for name, ok, output in pool.map(fuzz, [ROOT / "build-fuzz/fuzz" / t for t in targets]):
            totals.check(name, ok, output)


STAGES = {
    "gcc": stage_gcc,
    "suite": stage_suite,
    "checks": stage_checks,
    "cppcheck": stage_cppcheck,
    "clang": stage_clang,
    "sanitized": stage_sanitized,
    "fuzz": stage_fuzz,
}


def main():
    arguments = sys.argv[1:]
    names = [a for a in arguments if a != "--quick"] or list(STAGES)
    if "--quick" in arguments:
        names = ["gcc", "suite", "checks"]
    for name in names:
        if name not in STAGES:
            sys.exit(f"test: no stage {name}; there are: {' '.join(STAGES)}")
    totals = Totals()
    for name in names:
        started = time.monotonic()
        print(f"test: {name}", flush=True)
        before = (totals.passed, totals.failed, totals.skipped)
        broken = False
        try:
            STAGES[name](totals)
        except StopIteration:
            broken = True
        after = (totals.passed, totals.failed, totals.skipped)
        counts = [now - then for now, then in zip(after, before)]
        print(f"test: {name}: {counts[0]} of {sum(counts)} passed, "
              f"{time.monotonic() - started:.0f} s", flush=True)
        if broken:
            break
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped")
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(main())
