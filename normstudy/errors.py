"""What can go wrong that a person should read in one line. The command line turns each into its exit status."""


class NormstudyError(Exception):
    """Base of all errors whose message is one line for the user."""

    exit_status = 1


class ConfigError(NormstudyError, ValueError):
    """A value that the user gave can't be used."""

    exit_status = 2


class DataError(NormstudyError):
    """The data on disk are not MNIST."""


class ReportError(NormstudyError):
    """The tracking server doesn't hold what the report needs."""


class StorageError(NormstudyError):
    """The disk refuses what must be kept."""


class CheckpointError(NormstudyError):
    """A checkpoint that can't be used."""


class TrackingError(NormstudyError):
    """The tracking server can't be used: away, refusing, or of another version."""


class Superseded(NormstudyError):
    """Another process has taken over the run."""


class StudyError(NormstudyError):
    """Some trials of a study did not finish."""


class Diverged(NormstudyError):
    """A loss that is not finite, at a step counted from 1."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"diverged: {what} is not finite at step {step}")
        self.step = step


class Interrupted(NormstudyError):
    """A signal asked the process to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_status = 128 + signal_number
