//go:build !linux

package netconn

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
)

func unsupported(what string) error {
	return fmt.Errorf("%s on %s: %w", what, runtime.GOOS, errors.ErrUnsupported)
}

func setClass(int, net.Addr, int) error       { return unsupported("a traffic class") }
func getClass(int, net.Addr) (int, error)     { return 0, unsupported("a traffic class") }
func setUserTimeout(int, time.Duration) error { return unsupported("TCP_USER_TIMEOUT") }
func tcpInfo(int) (TCPInfo, error)            { return TCPInfo{}, unsupported("TCP_INFO") }
