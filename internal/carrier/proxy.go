package carrier

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// maxAnswer bounds the head of a proxy's answer.
const maxAnswer = 16 << 10

// ErrProxy is wrapped by what a proxy's refusal is.
var ErrProxy = errors.New("the proxy refuses")

// allow refuses addresses that Config.Allowed does not know, and those that have seen
// enough of this node.
func (s *Set) allow(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port()); s.cfg.Allowed != nil && !s.cfg.Allowed(at) {
		return fmt.Errorf("%v is not the address of another host", at.Addr())
	}
	if !s.attempts.take("at "+at.Addr().String(), time.Now()) {
		return errAttempts
	}
	return nil
}

// throughProxy has an HTTP proxy connect to a host (RFC 9110 §9.3.6).
func throughProxy(ctx context.Context, proxy *url.URL, hostPort string) (net.Conn, *net.TCPConn, error) {
	at := proxy.Host
	switch {
	case proxy.Scheme != "http" && proxy.Scheme != "https":
		return nil, nil, fmt.Errorf("a proxy of kind %q cannot be used", proxy.Scheme)
	case proxy.Port() == "" && proxy.Scheme == "http":
		at = net.JoinHostPort(proxy.Hostname(), "80")
	case proxy.Port() == "":
		at = net.JoinHostPort(proxy.Hostname(), "443")
	}
	d := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, nil, fmt.Errorf("the proxy %s: %w", proxy.Redacted(), err)
	}
	tcp, _ := c.(*net.TCPConn)
	if proxy.Scheme == "https" {
		t := tls.Client(c, &tls.Config{ServerName: proxy.Hostname()})
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, nil, fmt.Errorf("the proxy %s: %w", proxy.Redacted(), err)
		}
		c = t
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	stream, err := ask(c, proxy, hostPort)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, fmt.Errorf("the proxy %s: %w", proxy.Redacted(), err)
	}
	return stream, tcp, nil
}

// ask puts the request and reads the answer.
func ask(c net.Conn, proxy *url.URL, hostPort string) (net.Conn, error) {
	head := "CONNECT " + hostPort + " HTTP/1.1\r\nHost: " + hostPort + "\r\n"
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		return nil, err
	}
	bounded := &io.LimitedReader{R: c, N: maxAnswer}
	r := bufio.NewReaderSize(bounded, 4<<10)
	resp, err := readAnswer(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%w: %s", ErrProxy, resp.Status)
	}
	first, err := r.Peek(r.Buffered())
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return c, nil
	}
	return &begunConn{c, first}, nil
}

// readAnswer reads the head of an answer to CONNECT, which has no body.
func readAnswer(r *bufio.Reader) (*http.Response, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("its answer is not HTTP's: %w", err)
	}
	_ = resp.Body.Close() // has nothing
	return resp, nil
}

// begunConn is a connection of which some bytes were read.
type begunConn struct {
	net.Conn
	first []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
