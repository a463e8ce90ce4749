package main

import (
	"bufio"
	"io"
	"strings"

	"rsc.io/qr"
)

// quiet is the width of the light margin that a QR code needs on each side, in
// modules: ISO/IEC 18004, section 6.3.8.
const quiet = 4

// A terminal's own colours may be light on dark, which not every reader takes.
// These two are of the fixed part of its 256 colours: black on white.
const (
	inkAndPaper = "\x1b[38;5;16;48;5;231m"
	asBefore    = "\x1b[0m"
)

// drawQR draws a token as a QR code for a terminal, two modules a character.
// In capitals a token needs only the alphanumeric mode, which takes less room.
func drawQR(out io.Writer, token string) error {
	code, err := qr.Encode(strings.ToUpper(token), qr.L)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	for y := -quiet; y < code.Size+quiet; y += 2 {
		w.WriteString(inkAndPaper)
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := code.Black(x, y), code.Black(x, y+1); {
			case upper && lower:
				w.WriteRune('█')
			case upper:
				w.WriteRune('▀')
			case lower:
				w.WriteRune('▄')
			default:
				w.WriteByte(' ')
			}
		}
		w.WriteString(asBefore + "\n")
	}
	return w.Flush()
}
