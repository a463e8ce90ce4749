package mesh

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

var echo = Protocol{Name: "echo", MaxRequest: 8, MaxAnswer: 10, Timeout: 4 * time.Second}

func TestProtocolID(t *testing.T) {
	if got := echo.ID("/idloc/00"); got != "/idloc/00/echo/1" {
		t.Error(got)
	}
}

// Requests are answered, also empty ones and with nothing; what is too long, what
// the handler refuses and what is never said is no answer.
func TestExchange(t *testing.T) {
	t.Parallel()
	errNo := errors.New("no")
	for _, c := range []struct {
		what    string
		request string
		answer  string
		fail    error
		err     error // of who asks
		served  error // of who answers
	}{
		{"an answer", "question", "answer", nil, nil, nil},
		{"no words", "", "answer", nil, nil, nil},
		{"a notice", "question", "", nil, nil, nil},
		{"the longest", "12345678", "0123456789", nil, nil, nil},
		{"a request that is too long", "123456789", "answer", nil, network.ErrReset, &TooLongError{"request", 8}},
		{"an answer that is too long", "question", "0123456789a", nil, &TooLongError{"answer", 10}, nil},
		{"a refusal", "question", "", errNo, network.ErrReset, errNo},
	} {
		synctest.Test(t, func(t *testing.T) {
			member := &membership.Member{Peer: peerid.ID{1}}
			asks, answers := newStreams()
			served := make(chan error, 1)
			go func() {
				served <- echo.Serve(t.Context(), answers, member, func(_ context.Context, from *membership.Member, request []byte) ([]byte, error) {
					if from != member || string(request) != c.request {
						t.Errorf("%s: %q of %v", c.what, request, from)
					}
					return []byte(c.answer), c.fail
				})
			}()
			got, err := echo.Exchange(t.Context(), asks, []byte(c.request))
			if !same(err, c.err) || err == nil && !bytes.Equal(got, []byte(c.answer)) || err != nil && got != nil {
				t.Errorf("%s: %q, %v", c.what, got, err)
			}
			if err := <-served; c.served != nil && !same(err, c.served) {
				t.Errorf("%s: served with %v", c.what, err)
			}
			if asks.resets == 0 {
				t.Errorf("%s: the stream is not over", c.what)
			}
		})
	}
}

func same(got, want error) bool {
	var a, b *TooLongError
	if errors.As(got, &a) && errors.As(want, &b) {
		return *a == *b
	}
	return errors.Is(got, want) && (got == nil) == (want == nil)
}

// Who asks waits until its context ends, and learns why it has nothing.
func TestExchangeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asks, answers := newStreams()
		defer answers.end(network.ErrReset)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := echo.Exchange(ctx, asks, []byte("question")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		asks, answers := newStreams()
		defer answers.end(network.ErrReset)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := echo.Exchange(ctx, asks, []byte("question")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Who answers waits for no request longer than the protocol says, and its handler
// knows how long it has.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asks, answers := newStreams()
		defer asks.end(network.ErrReset)
		start := time.Now()
		err := echo.Serve(t.Context(), answers, nil, nil)
		if err == nil || time.Since(start) != echo.Timeout || answers.resets != 1 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		asks, answers := newStreams()
		start := time.Now()
		go func() { _, _ = echo.Exchange(t.Context(), asks, []byte("question")) }()
		err := echo.Serve(t.Context(), answers, nil, func(ctx context.Context, _ *membership.Member, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != echo.Timeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
