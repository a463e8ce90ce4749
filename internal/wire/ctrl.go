package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/idloc/idloc/internal/peerid"
)

// FrameType is the first byte of a control frame.
type FrameType uint8

// The control frames. A CTRL plaintext is one or more of them; zero bytes
// after the last are padding.
const (
	framePadding       FrameType = 0x00
	FramePing          FrameType = 0x01 // ID: answered on the same path by FramePong
	FramePong          FrameType = 0x02 // ID of the ping
	FramePathChallenge FrameType = 0x03 // ID: answered on the same path by FramePathResponse
	FramePathResponse  FrameType = 0x04 // ID of the challenge
	FrameMTUProbe      FrameType = 0x05 // ID, Size; the datagram is padded to Size
	FrameMTUAck        FrameType = 0x06 // ID, Size of the probe
	FrameConfirm       FrameType = 0x07 // Flag: 0 asks, 1 answers
	FrameRekeyOffer    FrameType = 0x08 // Number, Message
	FrameRekeyAnswer   FrameType = 0x09 // Number, Message
	FrameClose         FrameType = 0x0a // Flag: the reason
	FrameRelayBind     FrameType = 0x0b // Peer, Session: relay between the sender and Peer
	FrameRelayChannel  FrameType = 0x0c // Session, Flag: a relay status, Size: the channel
	FrameClosed        FrameType = 0x0d // answers a CLOSE that is repeated until then
)

// The Flag of FrameRelayChannel.
const (
	RelayBound   uint8 = 0 // both sides have asked: the channel carries
	RelayWaiting uint8 = 1 // the other side has not asked yet; the channel is zero
	RelayRefused uint8 = 2 // the relay does not relay this, or who has asked lets it go; the channel is zero
)

// FrameExtension is the first type of those that say how long they are, so that a
// peer which does not know one reads on behind it.
const FrameExtension FrameType = 0x40

// The extensions that there are.
const (
	FrameRepair FrameType = 0x40 // Message: 0 asks, 1 answers (1), number (1): the sender acknowledges what wants it
	FrameAck    FrameType = 0x41 // Message: see internal/pipe/repair
)

// maxExtension bounds the bytes of an extension: a CTRL plaintext is no longer.
const maxExtension = MaxMessage

// maxRekeyMessage bounds a Noise message in a rekey frame: e, s and a payload
// with an ML-KEM encapsulation key.
const maxRekeyMessage = 2048

// Frame is one control frame. Which fields count depends on Type; the others
// are zero.
type Frame struct {
	Type    FrameType
	Flag    uint8
	Size    uint16
	Number  uint32
	ID      uint64
	Message []byte // aliases what was parsed
	Peer    peerid.ID
	Session [16]byte
}

// Append appends f.
func (f Frame) Append(b []byte) []byte {
	b = append(b, byte(f.Type))
	switch f.Type {
	case FramePing, FramePong, FramePathChallenge, FramePathResponse:
		b = binary.BigEndian.AppendUint64(b, f.ID)
	case FrameMTUProbe, FrameMTUAck:
		b = binary.BigEndian.AppendUint64(b, f.ID)
		b = binary.BigEndian.AppendUint16(b, f.Size)
	case FrameConfirm, FrameClose:
		b = append(b, f.Flag)
	case FrameRekeyOffer, FrameRekeyAnswer:
		b = binary.BigEndian.AppendUint32(b, f.Number)
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.Message)))
		b = append(b, f.Message...)
	case FrameRelayBind:
		b = append(b, f.Peer[:]...)
		b = append(b, f.Session[:]...)
	case FrameRelayChannel:
		b = append(b, f.Session[:]...)
		b = append(b, f.Flag)
		b = binary.BigEndian.AppendUint16(b, f.Size)
	default:
		if f.Type >= FrameExtension {
			b = binary.BigEndian.AppendUint16(b, uint16(len(f.Message)))
			b = append(b, f.Message...)
		}
	}
	return b
}

// ParseFrame reads the first frame of a CTRL plaintext. At the padding or
// the end it returns a zero Frame, no rest and no error; padding that is not
// zero throughout is an error.
func ParseFrame(b []byte) (f Frame, rest []byte, err error) {
	if len(b) == 0 {
		return Frame{}, nil, nil
	}
	c := cursor{b: b}
	f.Type = FrameType(c.uint8("frame type"))
	switch f.Type {
	case framePadding:
		for _, v := range c.b {
			if v != 0 {
				return Frame{}, nil, fmt.Errorf("%w: padding", ErrInvalid)
			}
		}
		return Frame{}, nil, nil
	case FramePing, FramePong, FramePathChallenge, FramePathResponse:
		f.ID = c.uint64("frame ID")
	case FrameMTUProbe, FrameMTUAck:
		f.ID = c.uint64("frame ID")
		f.Size = c.uint16("probe size")
	case FrameConfirm:
		if f.Flag = c.uint8("confirm flag"); f.Flag > 1 {
			c.fail(ErrInvalid, "confirm flag")
		}
	case FrameClose:
		f.Flag = c.uint8("close reason")
	case FrameClosed:
	case FrameRekeyOffer, FrameRekeyAnswer:
		f.Number = c.uint32("rekey number")
		f.Message = c.bytes16(maxRekeyMessage, "rekey message")
	case FrameRelayBind:
		copy(f.Peer[:], c.take(peerid.Size, "relay peer"))
		copy(f.Session[:], c.take(len(f.Session), "relay session"))
	case FrameRelayChannel:
		copy(f.Session[:], c.take(len(f.Session), "relay session"))
		f.Flag = c.uint8("relay status")
		f.Size = c.uint16("relay channel")
		if f.Flag > RelayRefused || (f.Flag == RelayBound) != (f.Size > 0) || f.Size > MaxChannel {
			c.fail(ErrInvalid, "relay channel")
		}
	default:
		if f.Type < FrameExtension {
			c.fail(ErrInvalid, fmt.Sprintf("frame type %#x", uint8(f.Type)))
			break
		}
		f.Message = c.bytes16(maxExtension, "extension")
	}
	if c.err != nil {
		return Frame{}, nil, c.err
	}
	return f, c.b, nil
}
