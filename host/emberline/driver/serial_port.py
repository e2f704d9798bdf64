"""A serial port as a transport."""

from __future__ import annotations

import contextlib

from emberline.errors import DeviceError


class SerialPort:
    """A board's serial line.

    Parameters: ``name`` of the port, such as ``/dev/ttyUSB0`` or ``COM3``, or any URL that pyserial knows; ``baud``.

    Raises ``DeviceError``, naming the port, when it cannot be opened or fails.
    """

    def __init__(self, name: str, baud: int) -> None:
        import serial

        self.name = name
        self._error = serial.SerialException
        try:
            self._port = serial.serial_for_url(name, baudrate=baud, timeout=0, write_timeout=10)
        except (serial.SerialException, ValueError, OSError) as error:
            raise DeviceError(f"{name}: the serial port cannot be opened: {error}") from None
        # USB adapters otherwise collect bytes for 16 ms; not every system and adapter can be told.
        with contextlib.suppress(Exception):
            self._port.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (self._error, OSError) as error:
            raise DeviceError(f"{self.name}: writing failed: {error}") from None

    def read(self, count: int, timeout_s: float) -> bytes:
        try:
            self._port.timeout = timeout_s
            return bytes(self._port.read(count))
        except (self._error, OSError) as error:
            raise DeviceError(f"{self.name}: reading failed: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(self._error, OSError):
            self._port.close()
