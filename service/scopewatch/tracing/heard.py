"""What the library has to say of itself, kept from the log: it warns at every batch, and quotes what callers send."""

import logging
import threading

from scopewatch.errors import ConfigError

_OF_VARIABLES = ("opentelemetry.util.re", "opentelemetry.sdk.resources")
_OF_SENDING = "opentelemetry.exporter."


class Heard(logging.Handler):
    """Takes the place of the log for the whole library, for good: it may still be sending when the process ends."""

    def __init__(self) -> None:
        super().__init__()
        self._of_variables = ""
        self._thread = threading.get_ident()
        """Where all is built; spans are sent on others."""
        self.of_sending = ""
        """What it said last of sending spans; empty if it never did."""
        library = logging.getLogger("opentelemetry")
        library.addHandler(self)
        library.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OF_SENDING):
            self.of_sending = record.getMessage()
        built = record.thread == self._thread and record.name.startswith(_OF_SENDING)
        if built or record.name.startswith(_OF_VARIABLES):
            # As it is written in the library, since a variable may hold a secret.
            self._of_variables = self._of_variables or str(record.msg)

    def check_variables(self) -> None:
        """Refuses what the library would go on without. Call it when all is built, and before anything is sent.

        Raises:
            ConfigError: A variable was not in order.
        """
        if self._of_variables:
            raise ConfigError(
                f"otlp_endpoint: a variable OTEL_… of OpenTelemetry is not in order: {self._of_variables!r}"
            )
