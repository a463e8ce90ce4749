package directory

import (
	"context"
	"errors"
	"sync"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

// How many records this peer keeps for others, of at most naming.MaxRecord bytes each. A
// member needs naming.Replicas for its name and one for its contacts, and for a while those
// of a name that it had before; its certificate may allow it any label. All who came by one
// invitation may be an office, and all of one delegate's have twice that. What is above is
// not taken, until others have expired.
const (
	keptPerMember  = 24
	keptPerAccount = 8192
	keptMax        = 65536
)

var errStoreFull = errors.New("too many records of this member, of those who came as it did, or of all")

// boundedStore is what the records of a database are kept in. It is safe for concurrent use.
type boundedStore struct {
	*dssync.MutexDatastore
	perMember, perAccount, most int

	mu       sync.Mutex // guards the rest, and is held while the datastore is changed
	of       map[ds.Key]payers
	members  map[peerid.ID]int // records of each
	accounts account.Counts
}

// payers are to whom a record is charged.
type payers struct {
	member  peerid.ID
	account account.Account
}

var _ ds.Batching = (*boundedStore)(nil)

func newBoundedStore() *boundedStore {
	return &boundedStore{
		MutexDatastore: dssync.MutexWrap(ds.NewMapDatastore()), perMember: keptPerMember, perAccount: keptPerAccount, most: keptMax,
		of: map[ds.Key]payers{}, members: map[peerid.ID]int{},
	}
}

// payersOf says to whom a record is charged, which was verified; nobody pays for a
// revocation list.
func payersOf(value []byte) (p payers, ok bool) {
	rec := new(recpb.Record)
	if proto.Unmarshal(value, rec) != nil {
		return p, false
	}
	p.member, p.account, ok = naming.Origin(rec.GetValue())
	return p, ok
}

// Put implements ds.Datastore.
func (s *boundedStore) Put(ctx context.Context, key ds.Key, value []byte) error {
	p, charged := payersOf(value)
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.of[key]
	if charged && old != p {
		if !had && len(s.of) >= s.most || s.members[p.member] >= s.perMember || p.account != old.account && s.accounts.Full(p.account, s.perAccount) {
			return errStoreFull
		}
	}
	if err := s.MutexDatastore.Put(ctx, key, value); err != nil {
		return err
	}
	s.release(key)
	if charged {
		s.of[key] = p
		s.members[p.member]++
		s.accounts.Add(p.account)
	}
	return nil
}

// Delete implements ds.Datastore.
func (s *boundedStore) Delete(ctx context.Context, key ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.MutexDatastore.Delete(ctx, key)
	if err == nil {
		s.release(key)
	}
	return err
}

// Batch implements ds.Batching.
func (s *boundedStore) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(s), nil }

// release charges nobody for a key any more; mu is held.
func (s *boundedStore) release(key ds.Key) {
	p, had := s.of[key]
	if !had {
		return
	}
	delete(s.of, key)
	if s.members[p.member]--; s.members[p.member] <= 0 {
		delete(s.members, p.member)
	}
	s.accounts.Remove(p.account)
}
