package idloc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// Shutdown lets an HTTP request that is being answered finish, refuses new
// connections and takes nothing from the handler meanwhile.
func TestShutdown(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	entered, goOn := make(chan struct{}), make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(entered)
		<-goOn
		c, err := mars.Dial(r.Context(), "tcp", "venus:81") // the node goes on working
		if err == nil {
			c.Close()
		}
		fmt.Fprintf(w, "dialled: %v", errors.Is(err, syscall.ECONNREFUSED))
	})}
	go func() { _ = s.Serve(l) }()
	client := venus.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	s.SetKeepAlivesEnabled(false)
	done := make(chan error, 1)
	go func() { done <- mars.Shutdown(context.Background()) }()
	for { // until the listener is closed
		c, err := venus.Dial(t.Context(), "tcp", "mars:80")
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	close(goOn)
	body, err := io.ReadAll(resp.Body)
	if string(body) != "dialled: true" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	resp.Body.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := mars.Listen("tcp", ":0"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after it: %v", err)
	}
}

// A Shutdown whose context ends closes all the same and says so.
func TestShutdownEnds(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	port := echo(t, mars)
	c, err := venus.Dial(t.Context(), "tcp", "mars:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := venus.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := errors.Join(venus.Close(), venus.Shutdown(context.Background())); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A program may end right after it has written: Close delivers what was written
// to conns that are closed and to those that are open, and then the end.
func TestCloseDelivers(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("all of it"), 1<<18)
	got := make(chan error, 2)
	for i := range 2 {
		c, err := venus.Dial(t.Context(), "tcp", "mars:80")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			c.Close()
		}
		go func() {
			b, err := io.ReadAll(s)
			if err == nil && !bytes.Equal(b, want) {
				err = fmt.Errorf("%d of %d bytes", len(b), len(want))
			}
			got <- err
		}()
	}
	if err := venus.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// textsOfCut: what the end of a node has left undelivered is said with the peer's
// name.
func textsOfCut(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	c, err := venus.Dial(t.Context(), "tcp", "mars:80")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// The peer reads nothing, and has no room for what fills venus' send buffer: what
	// it has not taken yet when a write gives up it cannot take later.
	if err := peer.(idloc.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	// Until neither end takes more: a write that gets nothing in while it waits, and more
	// written than the peer has room for, since on a busy machine nothing may have moved yet.
	const room = 1 << 20
	begun := time.Now()
	for n, total := 1, 0; n > 0 || total < 2*room; total += n {
		if time.Since(begun) > patience {
			t.Fatalf("after %v %d bytes were taken", patience, total)
		}
		_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if n, err = c.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d bytes, %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = venus.Shutdown(ctx)
	var cut *idloc.CutError
	if !errors.As(err, &cut) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	check(t, provoked{"conns that were cut", cut, `1 conn to mars\.example\.com was cut, \d+(\.\d)? [kM]?B not delivered: context canceled`, []error{context.Canceled}})
	if len(cut.Cuts) != 1 || cut.Cuts[0].Peer != mars.ID() || cut.Cuts[0].Conns != 1 || cut.Cuts[0].Bytes == 0 {
		t.Errorf("%+v", cut.Cuts)
	}
}
