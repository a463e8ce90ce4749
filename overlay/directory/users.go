package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	// MaxUsers is how many users one member says it has at a time, those it has given up
	// in the last hour included: other servers keep keptPerMember records of it.
	MaxUsers = 12
	// userMarksMax bounds of how many records a reader remembers which was the newest.
	userMarksMax = 4096
)

// ErrTooManyUsers: this member says that it has MaxUsers already.
var ErrTooManyUsers = errors.New("too many users at this member")

// UserFound is one member at which a user is.
type UserFound struct {
	Peer    peerid.ID
	Info    string // as the member gave it
	Since   time.Time
	Expires time.Time
}

// Users is the part of a Directory that is about users.
type Users interface {
	PublishUser(ctx context.Context, user, info string, life time.Duration) error
	WithdrawUser(ctx context.Context, user string) error
	LookupUser(ctx context.Context, user string) ([]UserFound, error)
}

var _ Users = (*Directory)(nil)

// users is this peer's users, and what it reads of those of others. It is safe for
// concurrent use.
type users struct {
	cfg   *Config
	db    userDatabase
	check *naming.Validator
	names *names
	turn  chan struct{} // full while one of this peer's users is put

	mu    sync.Mutex // guards the rest
	own   map[string]*ownUser
	marks *simplelru.LRU[userMark, uint64] // the newest number seen
}

// userDatabase is the database as users needs it.
type userDatabase interface {
	store
	replicasOf(ctx context.Context, key string) walkResult
}

var _ userDatabase = (*database)(nil)

// ownUser is a user that this peer says it has, or gives up.
type ownUser struct {
	rec  *ownRecord
	said naming.UserRecord // what rec says
}

// userMark names a record of which the number counts.
type userMark struct {
	user string
	peer peerid.ID
}

func newUsers(cfg *Config, db userDatabase, check *naming.Validator, n *names) (*users, error) {
	marks, err := simplelru.NewLRU[userMark, uint64](userMarksMax, nil)
	return &users{cfg: cfg, db: db, check: check, names: n, turn: make(chan struct{}, 1), own: map[string]*ownUser{}, marks: marks}, err
}

// records are those of this peer's users that still say something.
func (u *users) records() (out []*ownRecord) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.cfg.Now()
	for _, o := range u.own {
		if now.Before(o.said.Expires) {
			out = append(out, o.rec)
		}
	}
	return out
}

// PublishUser says in the database that a user, "sip:fred", is at this member from now on
// until life is over, at most naming.MaxUserLife; info is what the service wants to say,
// of at most naming.MaxUserInfo bytes. To go on saying so, call it again before that. It
// fails with naming.ErrUser if this member may not, and with an error that is temporary if
// no server has taken it. If the user is at naming.UserSlots other members already it takes
// the place of the one that has said so longest ago.
func (d *Directory) PublishUser(ctx context.Context, user, info string, life time.Duration) error {
	ctx, cancel := within(ctx, d.ctx)
	defer cancel()
	life = min(life, naming.MaxUserLife)
	if len(info) > naming.MaxUserInfo || life < time.Second {
		return fmt.Errorf("user %q: %w: %d bytes, for %v", user, naming.ErrLifetime, len(info), life)
	}
	return d.users.publish(ctx, d.publisher, naming.UserRecord{User: user, Info: info}, life)
}

// WithdrawUser says that a user is at this member no more. It is no error if it was not.
func (d *Directory) WithdrawUser(ctx context.Context, user string) error {
	ctx, cancel := within(ctx, d.ctx)
	defer cancel()
	d.users.mu.Lock()
	o := d.users.own[user]
	was := o != nil && !o.said.Tombstone
	d.users.mu.Unlock()
	if !was {
		return naming.CheckUser(user)
	}
	return d.users.publish(ctx, d.publisher, naming.UserRecord{User: user, Tombstone: true}, naming.MaxUserLife)
}

// withdrawUsers gives up all users of this peer's, as far as that takes no long time.
func (d *Directory) withdrawUsers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout/3)
	defer cancel()
	d.users.mu.Lock()
	var all []string
	for user := range d.users.own {
		all = append(all, user)
	}
	d.users.mu.Unlock()
	for _, user := range all {
		if err := d.WithdrawUser(ctx, user); err != nil {
			d.cfg.Log.Debug("giving up a user", "user", user, "err", err)
		}
	}
}

// may says whether this peer may say that it has a user, before anybody is asked.
func (u *users) may(user string, chain []byte) error {
	if err := naming.CheckUser(user); err != nil {
		return err
	}
	m, err := u.check.Member(chain, u.cfg.Now())
	if err != nil {
		return err
	}
	return u.check.MaySay(m, user)
}

// publish puts rec, which is for life, and puts it again in another place if another
// member has taken this one at the same time.
func (u *users) publish(ctx context.Context, p *publisher, rec naming.UserRecord, life time.Duration) error {
	rec.Chain, _, _ = u.cfg.Roster.Own()
	if err := u.may(rec.User, rec.Chain); err != nil {
		return err
	}
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range naming.UserSlots {
		o := u.standing(ctx, rec.User)
		if o == nil && rec.Tombstone {
			return nil // another member's record is there, or none
		}
		if o == nil {
			var err error
			if o, err = u.place(ctx, rec.User); err != nil {
				return err
			}
		}
		rec.Slot, rec.Seq, rec.Issued = o.said.Slot, p.nextSeq(), u.cfg.Now()
		rec.Expires = rec.Issued.Add(life)
		if err := u.put(ctx, o, rec); err != nil {
			u.drop(rec.User)
			return fmt.Errorf("user %q: %w", rec.User, err)
		}
		if !u.ousted(ctx, o) {
			return nil
		}
		u.drop(rec.User)
	}
	return temporaryError{fmt.Errorf("user %q: others take its places as well", rec.User)}
}

// standing returns what this peer says about a user, unless that is over or another member
// has taken the place.
func (u *users) standing(ctx context.Context, user string) *ownUser {
	u.mu.Lock()
	o := u.own[user]
	u.mu.Unlock()
	if o == nil || u.cfg.Now().Before(o.said.Expires) && !u.ousted(ctx, o) {
		return o
	}
	u.drop(user)
	return nil
}

// ousted says whether another member is where this peer's record was.
func (u *users) ousted(ctx context.Context, o *ownUser) bool {
	s := u.readSlot(ctx, o.said.User, o.said.Slot)
	return s.rec != nil && s.rec.Peer != u.cfg.Self
}

// place finds a place for a user's record: the slot that this peer has from a former run,
// or else one that nobody has, or the one that was taken first.
func (u *users) place(ctx context.Context, user string) (*ownUser, error) {
	slots := u.read(ctx, user)
	best := -1
	for _, i := range u.order(user) {
		if rec := slots[i].rec; rec != nil && rec.Peer == u.cfg.Self {
			best = i
			break
		}
		if best < 0 || slots[i].taken() < slots[best].taken() {
			best = i
		}
	}
	o := &ownUser{rec: newOwnRecord(naming.UserKey(u.cfg.Overlay.ID, user, best), naming.MaxUserLife)}
	o.said.User, o.said.Slot = user, best
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.own) >= MaxUsers && !u.forgetLocked() {
		return nil, fmt.Errorf("user %q: %w", user, ErrTooManyUsers)
	}
	u.own[user] = o
	return o, nil
}

// order is in which slots this peer looks for a free one: members that come at the same
// time begin at different ones.
func (u *users) order(user string) (slots []int) {
	h := fnv.New32a()
	h.Write([]byte(user))
	h.Write(u.cfg.Self[:])
	first := int(h.Sum32() % naming.UserSlots)
	for i := range naming.UserSlots {
		slots = append(slots, (first+i)%naming.UserSlots)
	}
	return slots
}

// forgetLocked forgets one user whose record is over, or else that was given up first.
func (u *users) forgetLocked() bool {
	var oldest *ownUser
	for _, o := range u.own {
		over := !u.cfg.Now().Before(o.said.Expires)
		if (over || o.said.Tombstone) && (oldest == nil || o.said.Seq < oldest.said.Seq) {
			oldest = o
		}
	}
	if oldest != nil {
		delete(u.own, oldest.said.User)
	}
	return oldest != nil
}

func (u *users) drop(user string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.own, user)
}

// put signs rec and brings it to the servers. A server that is alone keeps it for itself.
func (u *users) put(ctx context.Context, o *ownUser, rec naming.UserRecord) error {
	value, err := rec.Sign(u.cfg.Key, u.cfg.Overlay)
	if err != nil {
		return err
	}
	u.mu.Lock()
	o.said = rec
	u.mu.Unlock()
	o.rec.set(value)
	taken, err := o.rec.put(ctx, u.db, true)
	if taken > 0 || errors.Is(err, errNoServer) && u.db.isServer() {
		return nil
	}
	return temporaryError{cmp.Or(err, ErrUnavailable)}
}

// slot is what the servers say about one of a user's slots.
type slot struct {
	rec      *naming.UserRecord // nil: nobody has it
	complete bool               // enough servers have answered to say so
}

// taken is since when a member has a slot, as a number; 0: none has.
func (s slot) taken() uint64 {
	if s.rec == nil || s.rec.Tombstone {
		return 0
	}
	return s.rec.Seq
}

// read reads all slots of a user.
func (u *users) read(ctx context.Context, user string) (slots [naming.UserSlots]slot) {
	var wg sync.WaitGroup
	for i := range slots {
		wg.Go(func() { slots[i] = u.readSlot(ctx, user, i) })
	}
	wg.Wait()
	return slots
}

// readSlot reads one: the newest record that any server gives, unless this reader has seen
// a newer one of the same member.
func (u *users) readSlot(ctx context.Context, user string, i int) (s slot) {
	key := naming.UserKey(u.cfg.Overlay.ID, user, i)
	res := u.db.replicasOf(ctx, key)
	s.complete = u.names.believes(res)
	for _, f := range res.found {
		rec, err := u.check.OpenUser(key, f.value)
		if err == nil && !u.behind(rec) && (s.rec == nil || rec.Seq > s.rec.Seq) {
			s.rec = rec
		}
	}
	if s.rec != nil {
		u.cfg.Roster.Note(s.rec.Member())
	}
	return s
}

// behind says whether a newer record of the same member was seen, and remembers this one
// if not.
func (u *users) behind(rec *naming.UserRecord) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	mark := userMark{rec.User, rec.Peer}
	seen, _ := u.marks.Get(mark)
	if rec.Seq >= seen {
		u.marks.Add(mark, rec.Seq)
	}
	return rec.Seq < seen
}

// LookupUser returns the members at which a user is, "sip:fred", who has said so last
// first; at most naming.UserSlots. ErrNotFound: it is at none. ErrUnavailable, which is
// temporary: too few servers have answered to say so.
func (d *Directory) LookupUser(ctx context.Context, user string) ([]UserFound, error) {
	if err := naming.CheckUser(user); err != nil {
		return nil, ErrNotFound // no record could be stored for it
	}
	ctx, cancel := context.WithTimeout(ctx, LookupTimeout)
	defer cancel()
	stop := context.AfterFunc(d.ctx, cancel)
	defer stop()
	for {
		found, err := d.users.lookup(ctx, user)
		again := errors.Is(err, ErrUnavailable) && (len(d.cfg.servers()) > 0 || d.cfg.JustBack())
		if !again || !pause.For(ctx, askAgain) {
			return found, err
		}
	}
}

func (u *users) lookup(ctx context.Context, user string) ([]UserFound, error) {
	newest, complete := map[peerid.ID]*naming.UserRecord{}, true
	for _, s := range u.read(ctx, user) {
		complete = complete && s.complete
		if s.rec != nil && (newest[s.rec.Peer] == nil || newest[s.rec.Peer].Seq < s.rec.Seq) {
			newest[s.rec.Peer] = s.rec
		}
	}
	if own := u.ownOf(user); own != nil {
		newest[u.cfg.Self] = own
	}
	var out []UserFound
	for p, rec := range newest {
		if !rec.Tombstone {
			out = append(out, UserFound{Peer: p, Info: rec.Info, Since: rec.Issued, Expires: rec.Expires})
		}
	}
	slices.SortFunc(out, func(a, b UserFound) int {
		return cmp.Or(cmp.Compare(newest[b.Peer].Seq, newest[a.Peer].Seq), a.Peer.Compare(b.Peer))
	})
	switch {
	case len(out) > 0:
		return out, nil
	case complete:
		return nil, ErrNotFound
	}
	return nil, temporaryError{ErrUnavailable}
}

// ownOf is what this peer says about a user itself, if it still may; nil: nothing.
func (u *users) ownOf(user string) *naming.UserRecord {
	u.mu.Lock()
	o := u.own[user]
	var rec naming.UserRecord
	if o != nil {
		rec = o.said
	}
	u.mu.Unlock()
	if o == nil || !u.cfg.Now().Before(rec.Expires) || u.may(user, rec.Chain) != nil {
		return nil
	}
	return &rec
}
