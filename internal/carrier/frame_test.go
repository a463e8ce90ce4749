package carrier

import (
	"bytes"
	"testing"
)

// collect reads a stream as a carrier does, cut where the bytes of cuts say.
func collect(t *testing.T, stream, cuts []byte) (out [][]byte, err error) {
	t.Helper()
	var b []byte
	for len(stream) > 0 {
		n := len(stream)
		if len(cuts) > 0 {
			n = min(n, 1+int(cuts[0]))
			cuts = cuts[1:]
		}
		b = append(b, stream[:n]...)
		stream = stream[n:]
		rest, _, bad := runs(b, func(run []byte, seg int) {
			if seg <= 0 || len(run) == 0 {
				t.Fatalf("a run of %d bytes, %d each", len(run), seg)
			}
			for len(run) > 0 {
				d := run[:min(seg, len(run))]
				run = run[len(d):]
				out = append(out, bytes.Clone(d))
			}
		})
		if bad != nil {
			return out, bad
		}
		b = b[:copy(b, rest)]
	}
	return out, nil
}

func TestFrames(t *testing.T) {
	var stream []byte
	var want [][]byte
	for i, n := range []int{1, 1200, 1200, 1200, 700, 1200, 40, 40, 40, 2, 3, MaxDatagram, 1} {
		d := bytes.Repeat([]byte{byte(i)}, n)
		d[0] = 0x80 // so that runs are made
		want = append(want, d)
		stream = appendFrame(stream, d)
	}
	for name, cuts := range map[string][]byte{"whole": nil, "in single bytes": make([]byte, len(stream)), "in pieces": bytes.Repeat([]byte{100, 250, 3}, 2000)} {
		got, err := collect(t, stream, cuts)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %d datagrams, %v", name, len(got), err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%s: datagram %d is %x…, %d bytes", name, i, got[i][:1], len(got[i]))
			}
		}
	}
	for _, bad := range [][]byte{{0, 0}, {0xff, 0xff}, {8, 1}, append(appendFrame(nil, []byte("ok")), 0, 0)} {
		if _, err := collect(t, bad, nil); err != errFrame {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, []byte("\x80one")), []byte("\x80two")), []byte{2, 3})
	f.Add([]byte{0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		whole, bad := collect(t, stream, nil)
		cut, bad2 := collect(t, stream, cuts)
		if (bad == nil) != (bad2 == nil) || len(whole) != len(cut) {
			t.Fatalf("%d datagrams and %v, in pieces %d and %v", len(whole), bad, len(cut), bad2)
		}
		var again []byte
		for i := range whole {
			if !bytes.Equal(whole[i], cut[i]) {
				t.Fatalf("datagram %d differs", i)
			}
			again = appendFrame(again, whole[i])
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatal("something else was read than was written")
		}
	})
}
