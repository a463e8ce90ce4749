package netconn

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

func setClass(fd int, at net.Addr, class int) error {
	v4, v6 := families(at)
	if v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class); err != nil && !v4 {
			return err
		}
	}
	if v4 {
		err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, class)
		if err != nil && !v6 {
			return err
		}
	}
	return nil
}

func getClass(fd int, at net.Addr) (int, error) {
	if v4, _ := families(at); v4 {
		if class, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS); err == nil {
			return class, nil
		}
	}
	return unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS)
}

func setUserTimeout(fd int, d time.Duration) error {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(ms, 1<<31-1)))
}

// tcpStates are those of the kernel's tcp_states.h, by RFC 9293's names.
var tcpStates = [...]string{
	1: "ESTABLISHED", 2: "SYN-SENT", 3: "SYN-RCVD", 4: "FIN-WAIT1", 5: "FIN-WAIT2", 6: "TIME-WAIT",
	7: "CLOSED", 8: "CLOSE-WAIT", 9: "LAST-ACK", 10: "LISTEN", 11: "CLOSING", 12: "SYN-RCVD",
}

// noThreshold is the kernel's TCP_INFINITE_SSTHRESH.
const noThreshold = 0x7fffffff

func tcpInfo(fd int) (TCPInfo, error) {
	k, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return TCPInfo{}, err
	}
	us := func(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }
	info := TCPInfo{
		RTT: us(k.Rtt), RTTVar: us(k.Rttvar), RTO: us(k.Rto),
		Retransmits:      uint64(k.Total_retrans),
		CongestionWindow: int(k.Snd_cwnd),
		DeliveryRate:     k.Delivery_rate,
		BytesWritten:     k.Bytes_sent - k.Bytes_retrans + uint64(k.Notsent_bytes),
		BytesReceived:    k.Bytes_received,
	}
	if k.Snd_ssthresh < noThreshold {
		info.SlowStartThreshold = int(k.Snd_ssthresh)
	}
	if int(k.State) < len(tcpStates) {
		info.State = tcpStates[k.State]
	}
	return info, nil
}
