"""Errors a user can cause: one family, so that the command line prints them without a traceback.

A message names what was wrong and where (file, layer, bad value). Programming mistakes stay ``ValueError``,
``TypeError`` or ``AssertionError`` and do get their traceback.
"""


class EmberlineError(Exception):
    """Base of every error whose message alone tells the user what to change."""


class ModelError(EmberlineError):
    """A network file or graph is damaged, inconsistent or uses something that is not supported."""


class ImageError(EmberlineError):
    """An input frame file is damaged, has the wrong shape or type, or cannot be converted exactly."""


class SimulationError(EmberlineError):
    """The RTL simulation cannot be built or run: a tool is missing, a build failed, or the simulator died."""


class CompileError(EmberlineError):
    """A network cannot run on an architecture; names the layer that decides and the reason."""


class ProgramError(EmberlineError):
    """A program file is damaged, foreign, of another version or made for another machine."""


class EmulationError(EmberlineError):
    """A program does something that the instruction set forbids; names the instruction."""


class WeightStreamError(EmberlineError):
    """Compressed weights are malformed or cut off; names the block.

    Parameters: ``cause``, a ``weight_code.StreamFault``.
    """

    def __init__(self, text: str, cause: int) -> None:
        super().__init__(text)
        self.cause = cause


class ForeignWeightsError(WeightStreamError):
    """Compressed weights are whole, but not those that a LOAD means."""


class WeightFaultError(EmulationError):
    """A LOAD got weights that stop a machine; names the instruction.

    Parameters: ``fault``, the ``isa.Fault`` that the machine stops with.
    """

    def __init__(self, text: str, fault: int) -> None:
        super().__init__(text)
        self.fault = fault


class VerificationError(EmberlineError):
    """Two ways of computing the same values disagree; names the first place."""


class DeviceError(EmberlineError):
    """A board does not answer, answers wrongly, refuses, or has stopped; names the board and the request."""


class FaultError(DeviceError):
    """A machine has stopped by itself; names the board and the cause.

    Parameters: ``fault``, an ``isa.Fault`` or, if it is none, its number.
    """

    def __init__(self, message: str, fault: int) -> None:
        super().__init__(message)
        self.fault = fault


class BuildError(EmberlineError):
    """A bitstream cannot be built: unknown board, missing tool, failed run, or a clock that is not reached."""
