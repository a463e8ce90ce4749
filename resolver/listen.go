package resolver

import "net"

// Listen binds the two sockets of a DNS server on a real address of this
// machine, for Serve and ServeListener: UDP and TCP of one port (RFC 7766,
// section 5), which for port 0 is one that is free for both. An address
// without a host is every address of the machine. The errors are those of
// net.Listen and net.ListenPacket; after one nothing is left open.
func Listen(address string) (net.PacketConn, net.Listener, error) {
	return listen(address, net.ListenPacket)
}

// maxPorts bounds how many ports are tried that turn out to be free for TCP
// only: each is taken for UDP by chance.
const maxPorts = 64

func listen(address string, listenPacket func(network, address string) (net.PacketConn, error)) (net.PacketConn, net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, &net.OpError{Op: "listen", Net: "udp", Err: err}
	}
	for try := 1; ; try++ {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, nil, err
		}
		_, chosen, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			l.Close()
			return nil, nil, err
		}
		pc, err := listenPacket("udp", net.JoinHostPort(host, chosen))
		if err == nil {
			return pc, l, nil
		}
		l.Close()
		if port != "" && port != "0" || try == maxPorts {
			return nil, nil, err
		}
	}
}
