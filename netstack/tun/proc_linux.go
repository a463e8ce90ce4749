package tun

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// flush waits until the peers have what connections in closing still send, as
// long as ctx lasts: a program may end right after it closed a conn. Peers that
// say nothing are not waited for.
func (h *Host) flush(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for h.sending() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Remotes returns the addresses to which sockets of the host have flows, LSIs
// and others: an LSI among them must not be given to another peer.
func Remotes() map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue
		}
		eachSocket(b, func(_, remote netip.Addr, _ byte, _ uint64) {
			if !remote.IsUnspecified() {
				all[remote] = true
			}
		})
	}
	return all
}

// maxResent is how often the kernel has sent something again, without an
// answer, of a connection that is worth waiting for: it begins after 0.2 s and
// doubles.
const maxResent = 2

// sending says whether a connection from an LSI of the node has a FIN that is
// not acknowledged, though its peer answers.
func (h *Host) sending() bool {
	found := false
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		eachSocket(b, func(local, _ netip.Addr, state byte, resent uint64) {
			const finWait1, lastAck, closing = 4, 9, 11
			switch state {
			case finWait1, lastAck, closing:
				found = found || resent <= maxResent && (local == h.self4 || local == h.self6)
			}
		})
	}
	return found
}

// eachSocket reads the table in b (proc_pid_net(5)): addresses are words of the
// machine's byte order in hexadecimal, states those of include/net/tcp_states.h,
// resent is how often something was sent again since the peer last answered.
func eachSocket(b []byte, f func(local, remote netip.Addr, state byte, resent uint64)) {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		w := bytes.Fields(s.Bytes())
		if len(w) < 7 {
			continue
		}
		local, ok1 := procAddr(w[1])
		remote, ok2 := procAddr(w[2])
		state, err := hex.DecodeString(string(w[3]))
		resent, err2 := strconv.ParseUint(string(w[6]), 16, 64)
		if ok1 && ok2 && err == nil && err2 == nil && len(state) == 1 {
			f(local, remote, state[0], resent)
		}
	}
}

// listening returns the TCP ports on which a program of the host listens.
func listening() map[uint16]bool {
	ports := map[uint16]bool{}
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			w := bytes.Fields(line)
			if len(w) < 4 || string(w[3]) != "0A" {
				continue
			}
			_, text, _ := bytes.Cut(w[1], []byte(":"))
			if port, err := strconv.ParseUint(string(text), 16, 16); err == nil {
				ports[uint16(port)] = true
			}
		}
	}
	return ports
}

// procAddr reads "0100007F:0050".
func procAddr(w []byte) (netip.Addr, bool) {
	word, _, _ := bytes.Cut(w, []byte(":"))
	b, err := hex.DecodeString(string(word))
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}
