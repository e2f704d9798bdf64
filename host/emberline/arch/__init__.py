"""What every part agrees on: the architecture, the instruction set, the file and packet formats. Plain Python."""
