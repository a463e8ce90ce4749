package netconn

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// limited takes n bytes, and says err of what is beyond; nil: a short write.
type limited struct {
	bytes.Buffer
	n   int
	err error
}

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) <= l.n {
		return l.Buffer.Write(b)
	}
	k, _ := l.Buffer.Write(b[:l.n-l.Len()])
	return k, l.err
}

func TestCopy(t *testing.T) {
	const text = "what has come, and what comes with the end"
	errRead, errWrite := errors.New("read"), errors.New("write")
	for _, tt := range []struct {
		what string
		r    io.Reader
		room int
		err  error // of the writer, beyond room
		n    int
		want error
	}{
		{"all", strings.NewReader(text), 100, nil, len(text), nil},
		{"nothing", strings.NewReader(""), 100, nil, 0, nil},
		{"the end comes with the last bytes", iotest.DataErrReader(strings.NewReader(text)), 100, nil, len(text), nil},
		{"a byte at a time", iotest.OneByteReader(strings.NewReader(text)), 100, nil, len(text), nil},
		{"the reader fails", io.MultiReader(strings.NewReader(text), iotest.ErrReader(errRead)), 100, nil, len(text), errRead},
		{"the writer fails", strings.NewReader(text), 10, errWrite, 10, errWrite},
		{"the writer is short", strings.NewReader(text), 10, nil, 10, io.ErrShortWrite},
	} {
		w := &limited{n: tt.room, err: tt.err}
		n, err := Copy(w, tt.r, make([]byte, 8))
		if n != int64(tt.n) || !errors.Is(err, tt.want) || w.String() != text[:tt.n] {
			t.Errorf("%s: %d, %v, %q", tt.what, n, err, w.String())
		}
	}
}
