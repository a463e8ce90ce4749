package idloc

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/idloc/idloc/internal/carrier"
)

// Carry gives a node carriers in spite of Config.Net.
func (cfg *Config) Carry(k carrier.Config) { cfg.carry = &k }

// Secure is the handshake of HTTPClient.
func Secure(ctx context.Context, n *Node, conn net.Conn, address string) (*tls.Conn, error) {
	return n.secure(ctx, conn, address)
}
