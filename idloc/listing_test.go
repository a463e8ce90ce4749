package idloc_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/inner"
)

// segments lists the TCP segments of what Capture has written, a line each, with the time
// since the first.
func segments(capture []byte) string {
	const fileHeader, recordHeader = 24, 16
	var b strings.Builder
	var first time.Time
	for rest := capture[min(fileHeader, len(capture)):]; len(rest) >= recordHeader; {
		at := time.Unix(int64(binary.LittleEndian.Uint32(rest)), int64(binary.LittleEndian.Uint32(rest[4:])))
		n := min(int(binary.LittleEndian.Uint32(rest[8:])), len(rest)-recordHeader)
		packet := rest[recordHeader : recordHeader+n]
		rest = rest[recordHeader+n:]
		var h inner.Header
		ip, ok := h.Parse(packet)
		if !ok || h.TCPLen == 0 {
			continue
		}
		if first.IsZero() {
			first = at
		}
		flags := ""
		for i, f := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
			if h.Flags&(1<<i) != 0 {
				flags += f + " "
			}
		}
		fmt.Fprintf(&b, "%10.3f ms %v:%d -> %v:%d %sseq %d ack %d, %d bytes\n", at.Sub(first).Seconds()*1000,
			h.Src, h.SrcPort, h.Dst, h.DstPort, flags, h.Seq, h.Ack, n-ip-int(h.TCPLen))
	}
	return b.String()
}

// What a failure prints of the wire is what was on it.
func TestSegments(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	port := echo(t, mars)
	var wire strings.Builder
	stop, err := venus.Capture(&wire)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialTimeout(t, venus, "tcp4", "mars:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("seven b")); err != nil {
		t.Fatal(err)
	}
	stop()
	text := segments([]byte(wire.String()))
	for _, want := range []string{":" + port + " SYN seq", " SYN ACK seq", "PSH ACK seq", ", 7 bytes\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
