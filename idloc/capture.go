package idloc

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// captureQueue is how many packets may wait for a slow writer.
const captureQueue = 1024

// Capture writes the inner packets of the node to w, as the applications'
// stack sees them, with LSIs for addresses: a pcap file with nanosecond times
// (link type RAW) that Wireshark and tcpdump read. TCP packets of a burst may
// appear as one larger one, and transport checksums are not filled in, as
// with any card that offloads them. Packets that w is too slow for are left
// out; stop says nothing of them. One capture runs at a time: while one does,
// Capture fails and writes nothing. What passes after the file's header has
// been written is in the capture.
//
// stop ends the capture, waits until the last packet is written, and is
// idempotent; Close of the node does the same. w is used by one goroutine and
// not closed.
func (n *Node) Capture(w io.Writer) (stop func(), err error) {
	if err := n.alive(); err != nil {
		return nil, err
	}
	c := &capture{w: w, packets: make(chan []byte, captureQueue), done: make(chan struct{})}
	c.stop = sync.OnceFunc(func() {
		n.stack.SetTap(nil)
		c.end()
		n.capture.CompareAndSwap(c, nil)
	})
	if !n.capture.CompareAndSwap(nil, c) {
		return nil, errCapturing
	}
	n.stack.SetTap(c.see) // before the header: who has read that may begin
	err = c.header()
	go c.run(err != nil) // in any case: Close may be waiting for its end
	if err != nil {
		c.stop()
		return nil, err
	}
	if n.alive() != nil { // Close may have looked before c was there
		c.stop()
	}
	return c.stop, nil
}

// capture is one running Capture.
type capture struct {
	w       io.Writer
	packets chan []byte // pcap records
	done    chan struct{}
	stop    func() // once

	mu    sync.RWMutex // held for reading while a packet is put into packets
	ended bool
	lost  atomic.Uint64
}

// header writes the pcap file header: magic of the nanosecond format,
// version 2.4, snapshot length, LINKTYPE_RAW.
func (c *capture) header() error {
	var h [24]byte
	binary.LittleEndian.PutUint32(h[0:], 0xa1b23c4d)
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], 1<<18)
	binary.LittleEndian.PutUint32(h[20:], 101)
	_, err := c.w.Write(h[:])
	return err
}

// see copies one packet for the writer; it never waits.
func (c *capture) see(_ bool, packet []byte) {
	at := time.Now()
	record := make([]byte, 16, 16+len(packet))
	binary.LittleEndian.PutUint32(record[0:], uint32(at.Unix()))
	binary.LittleEndian.PutUint32(record[4:], uint32(at.Nanosecond()))
	binary.LittleEndian.PutUint32(record[8:], uint32(len(packet)))
	binary.LittleEndian.PutUint32(record[12:], uint32(len(packet)))
	record = append(record, packet...)
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.ended {
		return
	}
	select {
	case c.packets <- record:
	default:
		c.lost.Add(1)
	}
}

// run writes until the capture ends or w fails; then, or if w has failed
// already, it goes on taking packets, so that end does not wait for it.
func (c *capture) run(failed bool) {
	defer close(c.done)
	for record := range c.packets {
		if failed {
			continue
		}
		if _, err := c.w.Write(record); err != nil {
			failed = true
		}
	}
}

func (c *capture) end() {
	c.mu.Lock()
	c.ended = true
	close(c.packets)
	c.mu.Unlock()
	<-c.done
}
