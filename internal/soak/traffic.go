package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// patience is how long a stream may take: far more than any fault lasts.
const patience = 2 * time.Minute

var errWrong = errors.New("wrong byte")

// source yields the bytes of one stream.
func source(seed uint64) io.Reader {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	return rand.NewChaCha8(s)
}

// dial opens a conn from post i to another and says which, and whether both
// nodes are still those that it began with.
func (c *crew) dial(ctx context.Context, network string, i int, rnd *rand.Rand) (conn net.Conn, to *post, same func() bool) {
	from := c.posts[i]
	to = c.posts[(i+1+rnd.IntN(len(c.posts)-1))%len(c.posts)]
	n, term := from.now()
	m, theirs := to.now()
	if n == nil || m == nil {
		pause(ctx, 20*time.Millisecond) // one of them restarts
		return nil, to, nil
	}
	same = func() bool {
		_, a := from.now()
		_, b := to.now()
		return a == term && b == theirs
	}
	c.t.dials.Add(1)
	dctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := n.Dial(dctx, network, net.JoinHostPort(to.name+".soak.example", port))
	if err != nil {
		if ctx.Err() == nil && same() {
			c.t.failed(c.posts[i].name, to.name, err)
		}
		pause(ctx, 50*time.Millisecond)
		return nil, to, nil
	}
	return conn, to, same
}

// pause waits for d or for the end of the run.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stream runs TCP streams of post i, one after the other, until ctx ends.
func (c *crew) stream(ctx context.Context, i int, rnd *rand.Rand) {
	for ctx.Err() == nil {
		conn, to, same := c.dial(ctx, "tcp", i, rnd)
		if conn == nil {
			continue
		}
		seed, size := rnd.Uint64(), 1+rnd.Int64N(1<<(8+rnd.IntN(15)))
		err := echoed(conn, seed, size)
		_ = conn.Close()
		switch {
		case err == nil:
			c.t.streams.Add(1)
			c.t.streamBytes.Add(uint64(size))
		case errors.Is(err, errWrong):
			c.t.complain(&c.t.wrong, "%s → %s: %v", c.posts[i].name, to.name, err)
		case !same():
			c.t.cut.Add(1)
		default:
			c.t.complain(&c.t.lost, "%s → %s, %d bytes: %v", c.posts[i].name, to.name, size, err)
		}
	}
}

// echoed sends size bytes over conn and wants them back, and then the end.
func echoed(conn net.Conn, seed uint64, size int64) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, io.LimitReader(source(seed), size))
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	err := compare(conn, source(seed), size)
	if err != nil {
		_ = conn.Close() // the sender need not wait
	}
	if serr := <-sent; err == nil {
		err = serr
	}
	return err
}

// compare wants size bytes of want from r and then its end.
func compare(r, want io.Reader, size int64) error {
	got, exp := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := r.Read(got)
		if at+int64(n) > size {
			return fmt.Errorf("%w: %d bytes too many", errWrong, at+int64(n)-size)
		}
		if _, err := io.ReadFull(want, exp[:n]); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], exp[:n]) {
			return fmt.Errorf("%w in %d bytes at %d", errWrong, n, at)
		}
		at += int64(n)
		switch {
		case err == io.EOF && at == size:
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w after %d of %d bytes", io.ErrUnexpectedEOF, at, size)
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", at, size, err)
		}
	}
}

// datagrams sends datagrams of post i until ctx ends, and compares those that
// come back.
func (c *crew) datagrams(ctx context.Context, i int, rnd *rand.Rand) {
	b := make([]byte, 65535)
	for ctx.Err() == nil {
		conn, to, _ := c.dial(ctx, "udp", i, rnd)
		if conn == nil {
			continue
		}
		for range 50 {
			seed, size := rnd.Uint64(), rnd.IntN(8<<10)
			if _, err := conn.Write(datagram(seed, size)); err != nil {
				break
			}
			c.t.datagrams.Add(1)
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := conn.Read(b)
			if err != nil {
				continue // lost
			}
			if !genuine(b[:n]) { // it may be an earlier one that was late
				c.t.complain(&c.t.wrong, "%s → %s: datagram of %d bytes has a wrong one", c.posts[i].name, to.name, n)
				continue
			}
			c.t.returned.Add(1)
		}
		_ = conn.Close()
	}
}

// datagram begins with the seed of the rest and its length.
func datagram(seed uint64, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, seed)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	rest := make([]byte, size)
	_, _ = io.ReadFull(source(seed), rest)
	return append(b, rest...)
}

func genuine(b []byte) bool {
	if len(b) < 12 {
		return false
	}
	size := binary.LittleEndian.Uint32(b[8:])
	return int(size) == len(b)-12 && bytes.Equal(b, datagram(binary.LittleEndian.Uint64(b), int(size)))
}
