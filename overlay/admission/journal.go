package admission

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

// The records of the registry's journal. Of two for one thing the later counts.
// Numbers are big endian, times in whole seconds since 1970, 0 for none.
//
//	label      1, peer 32, serial 8, until 8, flags 1 (1: named), invitation 32, delegate 32, label length 1, label, and not in older ones: roles 1, tags length 1, tags
//	delegates  2: others confirm too
//	made       3, invitation 32, from 8, end 8, uses 1, roles 1, flags 1 (1: withdrawn), secret 32, label length 1, label, and not in older ones: tags length 1, tags
//	succession 5, new key 32, old key 32, until 8: 0 if it is over
//	came       4, issuer 32, invitation 32, peer 32, end 8, until 8, uses 1, flags 1 (1: confirmed)
const (
	recordLabel      = 1
	recordDelegates  = 2
	recordMade       = 3
	recordCame       = 4
	recordSuccession = 5
)

func delegatesRecord() []byte { return []byte{recordDelegates} }

func labelRecord(label string, c confirmedLabel) []byte {
	b := append([]byte{recordLabel}, c.Peer[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Serial)
	b = appendSeconds(b, c.NotAfter)
	b = append(b, flag(c.Named))
	b = append(append(b, c.Invitation[:]...), c.Delegate[:]...)
	b = append(field.Append8(b, []byte(label)), byte(c.Roles))
	return field.Append8(b, []byte(c.Tags))
}

func madeRecord(key membership.Key, m made) []byte {
	b := append([]byte{recordMade}, key[:]...)
	b = appendSeconds(appendSeconds(b, m.from), m.end)
	b = append(append(b, byte(m.uses), byte(m.roles), flag(m.withdrawn)), m.secret[:]...)
	return field.Append8(field.Append8(b, []byte(m.label)), []byte(m.tags))
}

func cameRecord(issuer, invitation membership.Key, v *visitors, peer peerid.ID, confirmed bool) []byte {
	b := append([]byte{recordCame}, issuer[:]...)
	b = append(append(b, invitation[:]...), peer[:]...)
	b = appendSeconds(appendSeconds(b, v.end), v.until)
	return append(b, byte(v.uses), flag(confirmed))
}

func successionRecord(next peerid.ID, s succession) []byte {
	b := append(append([]byte{recordSuccession}, next[:]...), s.old[:]...)
	return appendSeconds(b, s.until)
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

func appendSeconds(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
}

func readSeconds(f *field.Reader) time.Time {
	if s := f.Uint64(); s > 0 && s < 1<<36 {
		return time.Unix(int64(s), 0).UTC()
	}
	return time.Time{}
}

func readKey(f *field.Reader) (k membership.Key) {
	f.Copy(k[:])
	return k
}

// restore takes one record; one that does not read says nothing.
func (r *registry) restore(b []byte) {
	rd := field.NewReader(bytes.NewReader(b))
	switch rd.Uint8() {
	case recordLabel:
		c := confirmedLabel{Peer: peerid.ID(readKey(rd)), Serial: rd.Uint64(), NotAfter: readSeconds(rd)}
		c.Named = rd.Uint8() == 1
		c.Invitation, c.Delegate = readKey(rd), readKey(rd)
		if label := string(rd.Short8()); rd.Err() == nil {
			c.Roles = membership.Roles(rd.Uint8())
			c.Tags = membership.Tags(rd.Short8())
			r.labels[label] = c
			r.serial = max(r.serial, c.Serial)
		}
	case recordDelegates:
		r.delegates = true
	case recordMade:
		key := readKey(rd)
		m := made{from: readSeconds(rd), end: readSeconds(rd), uses: int(rd.Uint8())}
		m.roles = membership.Roles(rd.Uint8())
		m.withdrawn = rd.Uint8() == 1
		m.secret = readKey(rd)
		if m.label = string(rd.Short8()); rd.Err() == nil {
			m.tags = membership.Tags(rd.Short8())
			r.made[key] = m
		}
	case recordSuccession:
		next, s := peerid.ID(readKey(rd)), succession{old: peerid.ID(readKey(rd)), until: readSeconds(rd)}
		if rd.Err() != nil {
			return
		}
		if s.until.IsZero() {
			delete(r.successions, next)
		} else {
			r.successions[next] = s
		}
	case recordCame:
		issuer, invitation, peer := readKey(rd), readKey(rd), peerid.ID(readKey(rd))
		end, until, uses := readSeconds(rd), readSeconds(rd), int(rd.Uint8())
		if confirmed := rd.Uint8() == 1; rd.Err() == nil {
			v := r.came.of(issuer, invitation)
			v.end, v.until, v.uses = end, until, uses
			r.came.add(issuer, v, peer, confirmed)
		}
	}
}

// all returns the records that say what is there; mu is held.
func (r *registry) all() [][]byte {
	var out [][]byte
	if r.delegates {
		out = append(out, delegatesRecord())
	}
	for label, c := range r.labels {
		out = append(out, labelRecord(label, c))
	}
	for key, m := range r.made {
		out = append(out, madeRecord(key, m))
	}
	for next, s := range r.successions {
		out = append(out, successionRecord(next, s))
	}
	for issuer, below := range r.came.below {
		for _, key := range below.invitations.Keys() {
			v, _ := below.invitations.Peek(key)
			for _, p := range v.peers {
				out = append(out, cameRecord(issuer, key, v, p.peer, p.confirmed))
			}
		}
	}
	return out
}
