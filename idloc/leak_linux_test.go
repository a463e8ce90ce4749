package idloc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/idloc"
)

// What the capture is searched for. None of it may stand anywhere but in the
// test, and each in one piece in a message of DNS too.
const (
	leakDomain  = "solar-q7zd.example"
	leakLabel   = "zarmina-q7"
	leakControl = "control-q7zd"
)

// TestNoNameOnTheWire captures every interface of a machine on which three
// nodes run and look names up in every way that there is: no name of the
// overlay, nor of an LSI's reverse zone, nor a packet to an LSI is in it, be
// it in DNS, mDNS, QUIC's or TLS's open parts, STUN or pipes. The machine is a
// network namespace of its own, with loopback, an Ethernet interface
// whose router is deaf, and a DNS server that its resolv.conf names. That a name outside is seen
// there proves that the capture works.
func TestNoNameOnTheWire(t *testing.T) {
	if os.Getenv("IDLOC_LEAK") != "" {
		leakMachine(t, os.Getenv("IDLOC_LEAK"))
		return
	}
	t.Parallel()
	program(t, "ip")
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestNoNameOnTheWire$", "-test.v")
	cmd.Env = append(os.Environ(), "IDLOC_LEAK="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skip("no user namespaces here: ", err)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	t.Logf("%s", out)
	leakInTLS(t, filepath.Join(dir, "all.pcap"))
}

// leakMachine is the test inside the namespace.
func leakMachine(t *testing.T, dir string) {
	for _, line := range []string{
		"link set lo up", "link add out0 type veth peer name far0", "link set far0 up", "link set out0 up",
		"addr add 192.0.2.1/24 dev out0", "-6 addr add 2001:db8::1/64 dev out0 nodad",
		// A router, so that packets for elsewhere go out and not just ARP.
		"neigh add 192.0.2.254 lladdr 02:00:00:00:00:fe dev out0", "route add default via 192.0.2.254",
		"neigh add 2001:db8::fe lladdr 02:00:00:00:00:fe dev out0", "-6 route add default via 2001:db8::fe",
	} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", line, err, out)
		}
	}
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.1\nsearch corp.example lan\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Skip("resolv.conf cannot be replaced here: ", err)
	}
	stopDNS := denyAll(t)
	defer stopDNS()
	packets := sniff(t)

	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	earth, err := idloc.Create(t.Context(), leakDomain, idloc.Config{Name: "earth-q7", Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	defer earth.Close()
	venus := join(t, earth, "venus-q7", idloc.Config{Addrs: addrs})
	mars := join(t, earth, leakLabel, idloc.Config{Addrs: addrs})
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })}
	defer web.Close()
	go web.Serve(l)

	lookUp(t, venus)
	mars.Close() // says goodbye
	if _, err := venus.Ping(leakContext(t, 3*time.Second), leakLabel); err == nil {
		t.Error("mars answers after Close")
	}
	venus.Close()
	earth.Close()

	all := packets()
	writePcap(t, filepath.Join(dir, "all.pcap"), all)
	control, stun := 0, 0
	for _, p := range all {
		low := bytes.ToLower(p)
		for _, secret := range []string{leakDomain, "solar-q7zd", leakLabel, "venus-q7", "earth-q7", "\x0218\x03198\x07in-addr", "\x012\x010\x010\x012\x03ip6"} {
			if bytes.Contains(low, []byte(secret)) {
				t.Errorf("%q is in a packet: %q", secret, p)
			}
		}
		if bytes.Contains(low, []byte(leakControl)) {
			control++
		}
		if bytes.Contains(p, []byte{0x21, 0x12, 0xa4, 0x42}) {
			stun++
		}
		if len(p) >= 34 && binary.BigEndian.Uint16(p[12:]) == 0x0800 &&
			netip.MustParsePrefix("198.18.0.0/15").Contains(netip.AddrFrom4([4]byte(p[30:34]))) {
			t.Errorf("a packet to an LSI: %x", p)
		}
	}
	if control == 0 || stun == 0 {
		t.Fatalf("%d packets, %d with the name outside, %d of STUN: the capture is not one of this machine", len(all), control, stun)
	}
	t.Logf("%d packets, %d with the name outside, none with one of the overlay", len(all), control)
}

func leakContext(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// lookUp asks for names of the overlay in every way, and once for one outside.
func lookUp(t *testing.T, venus *idloc.Node) {
	ctx := leakContext(t, time.Minute)
	name := leakLabel + "." + leakDomain
	for _, host := range []string{name, strings.ToUpper(name), name + ".", leakLabel, venus.ID().Label() + "." + leakDomain} {
		if c, err := venus.Dial(ctx, "udp", net.JoinHostPort(host, "9")); err != nil {
			t.Errorf("%s: %v", host, err)
		} else {
			c.Close()
		}
	}
	client := venus.HTTPClient()
	defer client.CloseIdleConnections()
	if resp, err := client.Get("http://" + name + "/"); err != nil {
		t.Error(err)
	} else {
		resp.Body.Close()
	}
	r := venus.Resolver()
	at, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil || len(at) != 2 {
		t.Errorf("%s: %v, %v", name, at, err)
	}
	for _, a := range append(at, netip.MustParseAddr("198.18.200.200"), netip.MustParseAddr("2001:20::7")) {
		r.LookupAddr(ctx, a.String())
	}
	for _, host := range []string{name, "unknown." + leakDomain, leakDomain, "a.b." + name, "_sip._udp." + name, name + ".corp.example"} {
		r.LookupHost(ctx, host)
		r.LookupMX(ctx, host)
		r.LookupTXT(ctx, host)
		r.LookupSRV(ctx, "sip", "udp", host)
		r.LookupCNAME(ctx, host)
	}
	if _, err := r.LookupHost(ctx, leakControl+".example.net"); err == nil {
		t.Error("the DNS server outside denies nothing")
	}
}

// denyAll is the machine's DNS server: it knows no name.
func denyAll(t *testing.T) (stop func()) {
	pc, err := net.ListenPacket("udp", "192.0.2.1:53")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if n > 12 {
				b[2], b[3] = 0x81, 0x83 // a response, NXDOMAIN; the question as it is
				pc.WriteTo(b[:n], from)
			}
		}
	}()
	return func() { pc.Close(); <-done }
}

// sniff records what passes on all interfaces until the returned function is
// called, which waits for the last of it.
func sniff(t *testing.T) func() [][]byte {
	const all = 0x0300 // ETH_P_ALL, in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Skip("no packet socket here: ", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<20)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<17)
		for {
			n, _, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC)
			if err == unix.EINTR {
				continue
			}
			if err != nil { // nothing for a while
				select {
				case <-stop:
					return
				default:
					continue
				}
			}
			got = append(got, slices.Clone(b[:min(n, len(b))]))
		}
	}()
	return sync.OnceValue(func() [][]byte {
		close(stop)
		<-done
		if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops > 0 {
			t.Errorf("the capture has gaps: %+v, %v", s, err)
		}
		unix.Close(fd)
		return got
	})
}

func writePcap(t *testing.T, path string, packets [][]byte) {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint16(le.AppendUint16(b, 2), 4)
	b = le.AppendUint32(le.AppendUint64(b, 0), 1<<18)
	b = le.AppendUint32(b, 1) // Ethernet; loopback has its header too
	for _, p := range packets {
		b = le.AppendUint64(b, 0)
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(p))), uint32(len(p)))
		b = append(b, p...)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// announced are the names of package lan's announcements.
var announced = regexp.MustCompile(`^([0-9a-f]{16}\.)?_idloc-[0-9a-v]{9}\._udp\.local$`)

// leakInTLS has tshark open QUIC's first packets, as anybody can: their keys
// are in them. It must find handshakes there, and no server's name.
func leakInTLS(t *testing.T, pcap string) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Log("tshark is not installed: the open part of QUIC's handshake was not read")
		return
	}
	out, err := exec.CommandContext(t.Context(), tshark, "-n", "-r", pcap, "-Y", "tls.handshake.type == 1 || mdns",
		"-T", "fields", "-e", "_ws.col.Protocol", "-e", "tls.handshake.type", "-e", "tls.handshake.extensions_server_name",
		"-e", "dns.qry.name", "-e", "dns.resp.name").Output()
	if err != nil {
		t.Fatal(err)
	}
	hello := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) == 5 && f[0] == "MDNS" { // package lan: hashes and random names, nothing else
			for name := range strings.SplitSeq(f[3]+","+f[4], ",") {
				if name != "" && !announced.MatchString(name) {
					t.Errorf("tshark sees %q", line)
				}
			}
			continue
		}
		if len(f) != 5 || f[2] != "" {
			t.Errorf("tshark sees %q", line)
		}
		hello++
	}
	if hello == 0 {
		t.Error("tshark finds no handshake of QUIC")
	}
}
