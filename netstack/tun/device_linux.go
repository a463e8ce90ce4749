package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// device is the TUN device. wireguard's package turns the offloads on and
// watches it; its Read and Write are not used, because they cut super packets
// into segments and merge them again, with a checksum each, where the shim
// wants them whole.
type device struct {
	wg        wgtun.Device
	file      *os.File
	raw       syscall.RawConn
	name      string
	index     int32
	datagrams bool // the kernel takes merged UDP
	netlink   *netlink
	diag      *netlink // nil: this kernel has none
}

// mtu is the device's. Nothing below needs IP fragments, so it is the largest
// packet's, as gVisor's link has it: the pipe splits what is larger than its
// path takes (DESIGN §14.3). TCP's segments are kept to the pipe's size by the
// MSS that the routes say (advertisedMSS).
const mtu = 65535

// gsoSegments keeps a super packet of TCP to what one batch of the pipe takes,
// like netstack's.
const gsoSegments = 44

func openDevice(name string) (*device, error) {
	if strings.Count(name, "%") != strings.Count(name, "%d") || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("tun: device name %q: %w", name, syscall.EINVAL)
	}
	file, err := openFile(name)
	if err != nil {
		return nil, explain("making a TUN device", err)
	}
	wg, err := wgtun.CreateTUNFromFile(file, mtu)
	if err != nil {
		file.Close()
		return nil, explain("making a TUN device", err)
	}
	d := &device{wg: wg, file: wg.File()}
	fail := func(err error) (*device, error) {
		d.discard()
		return nil, err
	}
	if d.name, err = wg.Name(); err != nil {
		return fail(err)
	}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		return fail(err)
	}
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if e := d.raw.Control(func(fd uintptr) {
		// Since Linux 6.2; wireguard's package does not tell.
		d.datagrams = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloads|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil
	}); e != nil {
		return fail(e)
	}
	if d.netlink, err = newNetlink(); err != nil {
		return fail(err)
	}
	if d.diag, err = netlinkOf(unix.NETLINK_SOCK_DIAG); err != nil {
		d.diag = nil // the node can do without
	}
	iface, err := net.InterfaceByName(d.name)
	if err != nil {
		return fail(err)
	}
	d.index = int32(iface.Index)
	return d, nil
}

// openFile makes the device as wireguard's CreateTUN does, which leaves the
// file open when the kernel refuses.
func openFile(name string) (*os.File, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil // known to the poller from here on
}

// discard closes a device that nobody watches, and waits for its goroutines.
func (d *device) discard() {
	d.close()
	for range d.wg.Events() {
	}
	d.forget()
}

// explain says what is missing when the kernel refuses.
func explain(what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("tun: %s: the kernel has no TUN devices (/dev/net/tun): %w", what, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("tun: %s needs the right CAP_NET_ADMIN (root, a file capability, or a user namespace of one's own: unshare -Urnm): %w", what, err)
	}
	return fmt.Errorf("tun: %s: %w", what, err)
}

// close takes the device away; its routes and addresses go with it.
//
// The library wakes its goroutine that hears of devices with a write to a pipe.
// That goroutine may have heard of something, seen that it is to end, and closed
// the pipe before: then there was nobody to wake, which is no error.
func (d *device) close() error {
	if err := d.wg.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// forget ends what is left of a closed device: the sockets to the kernel.
func (d *device) forget() {
	if d.netlink != nil {
		d.netlink.close()
	}
	if d.diag != nil {
		d.diag.close()
	}
}

// watch puts addresses and routes back when the device was taken down and set
// up again by somebody: the kernel forgets them then. It ends with the device.
func (h *Host) watch() {
	for e := range h.dev.wg.Events() {
		if e&wgtun.EventUp == 0 { // it comes often, and "down" not always
			continue
		}
		if err := h.address(); err != nil {
			h.log.Error("the TUN device came up again", "device", h.dev.name, "err", err)
		}
	}
}

func (d *device) read(b []byte) (int, error) { return d.file.Read(b) }

// frame is what one write needs, so that it allocates nothing.
type frame struct {
	vnet   [vnetLen]byte
	pieces [3][]byte
	err    error
	call   func(fd uintptr)
}

var framePool = sync.Pool{New: func() any {
	f := new(frame)
	f.call = f.writev
	return f
}}

func (f *frame) writev(fd uintptr) {
	n := len(f.pieces)
	if len(f.pieces[2]) == 0 {
		n--
	}
	for {
		if _, f.err = unix.Writev(int(fd), f.pieces[:n]); f.err != unix.EINTR {
			return
		}
	}
}

// write gives the kernel the packet that head and payload hold; false if it
// did not take it. It does not wait, and several may write at once.
func (d *device) write(f *frame, head, payload []byte) bool {
	f.pieces[0], f.pieces[1], f.pieces[2] = f.vnet[:], head, payload
	err := d.raw.Control(f.call)
	f.pieces = [3][]byte{}
	return err == nil && f.err == nil
}

// up sets what the device needs beside addresses, and then the device.
func (d *device) up() error {
	// Neither is needed: without them the host asks for routers that do not
	// exist, and a super packet fills more than one batch.
	_ = d.netlink.link(d.index, quietIPv6()...)
	_ = d.netlink.link(d.index, attr32(unix.IFLA_GSO_MAX_SEGS, gsoSegments)...)
	if err := d.netlink.setUp(d.index); err != nil {
		return explain("setting "+d.name+" up", err)
	}
	return nil
}
