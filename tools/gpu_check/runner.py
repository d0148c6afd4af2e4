"""Running the program: every command, what it said and how long it took go into the log."""

import json
import os
import subprocess
import time

REFUSED = 2  # the program's exit code for what it does not have, and for flags that it does not know


class CommandFailed(Exception):
    """A command ended otherwise than it must."""


class OutOfTime(Exception):
    """The budget is spent."""


class Runner:
    """Runs commands within one budget of seconds."""

    def __init__(self, program, device, environment, budget, log):
        self.program = program
        self.device = device
        self.environment = {**os.environ, **environment}
        self.ends = time.monotonic() + budget
        self.log = log

    def left(self):
        return self.ends - time.monotonic()

    def run(self, command, environment=None):
        """Exit code, standard output, standard error."""
        left = self.left()
        if left <= 0:
            raise OutOfTime("no time left for it")
        command = [str(word) for word in command]
        self.log.write(f"$ {' '.join(command)}\n")
        started = time.monotonic()
        try:
            done = subprocess.run(
                command,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            self.log.write(f"  ended after {left:.1f} s: the budget is spent\n\n")
            raise OutOfTime(f"no time left after {left:.0f} s of it") from late
        except OSError as why:
            self.log.write(f"  {why}\n\n")
            raise CommandFailed(f"{command[0]}: {why}") from why
        seconds = time.monotonic() - started
        for text in (done.stdout, done.stderr):
            self.log.write("".join(f"  {line}\n" for line in text.splitlines()))
        self.log.write(f"  exit code {done.returncode} after {seconds:.1f} s\n\n")
        self.log.flush()
        return done.returncode, done.stdout, done.stderr

    def verydeep(self, *arguments):
        """What the program said as JSON. Raises CommandFailed with its words where it does not end with 0."""
        code, out, err = self.run([self.program, *arguments, "--json"])
        if code == REFUSED:
            raise CommandFailed(f"refused: {last_line(err)}")
        if code != 0:
            raise CommandFailed(f"exit code {code}: {last_line(err)}")
        return parse(out)


def parse(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError as why:
        raise CommandFailed(f"expected one JSON object, found {text[:80]!r}: {why}") from why


def last_line(text):
    """The line that says why: of clap's errors the one with `error:`, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1 if not errors else 0]
