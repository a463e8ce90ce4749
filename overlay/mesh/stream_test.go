package mesh

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// memStream is one end of a stream in memory, for tests in virtual time. What is
// written waits until it is read.
type memStream struct {
	network.Stream // nil: what is not below is not called
	r              *io.PipeReader
	w              *io.PipeWriter

	mu       sync.Mutex
	deadline *time.Timer
	resets   int
}

// newStreams returns both ends of a stream.
func newStreams() (a, b *memStream) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return &memStream{r: ar, w: aw}, &memStream{r: br, w: bw}
}

func (s *memStream) Read(b []byte) (int, error)  { return s.r.Read(b) }
func (s *memStream) Write(b []byte) (int, error) { return s.w.Write(b) }
func (s *memStream) CloseWrite() error           { return s.w.Close() }

func (s *memStream) Close() error {
	s.stop()
	_ = s.r.Close()
	return s.w.Close()
}

func (s *memStream) Reset() error {
	s.stop()
	s.mu.Lock()
	s.resets++
	s.mu.Unlock()
	s.end(network.ErrReset)
	return nil
}

func (s *memStream) end(err error) {
	_ = s.r.CloseWithError(err)
	_ = s.w.CloseWithError(err)
}

func (s *memStream) SetDeadline(t time.Time) error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = time.AfterFunc(time.Until(t), func() { s.end(os.ErrDeadlineExceeded) })
	return nil
}

func (s *memStream) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadline != nil {
		s.deadline.Stop()
	}
}
