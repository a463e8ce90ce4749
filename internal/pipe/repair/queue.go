package repair

// quantum is what a flow may send in its turn; one that is new begins with half.
const quantum = 12000

// flow is what one flow has waiting.
type flow struct {
	key     uint64
	packets list
	bytes   int
	deficit int
	fresh   bool  // it has not waited behind others yet
	after   *flow // the next in turn
}

// queue is the flows that have something waiting, in turn.
type queue struct {
	flows       map[uint64]*flow
	first, last *flow
	spare       *flow // for use anew, by after
	bytes       int
}

func (q *queue) push(k *Packet) {
	f := q.flows[k.flow]
	if f == nil {
		if f = q.spare; f != nil {
			q.spare = f.after
		} else {
			f = new(flow)
		}
		*f = flow{key: k.flow, deficit: quantum / 2, fresh: true, after: q.first}
		if q.flows == nil {
			q.flows = make(map[uint64]*flow)
		}
		q.flows[k.flow] = f
		// New flows first: they may be a question that waits for its answer.
		if q.first = f; q.last == nil {
			q.last = f
		}
	}
	f.packets.push(k)
	f.bytes += k.Size
	q.bytes += k.Size
}

// head is the packet whose turn it is, nil if none waits.
func (q *queue) head() *Packet {
	for f := q.first; f != nil; f = q.first {
		switch {
		case f.packets.first == nil && f.fresh && f.after != nil:
			// It keeps its place behind the others: else one that has little waiting,
			// but always anew, would always be first (RFC 8290 §4.2).
			q.rotate(f)
		case f.packets.first == nil:
			if q.first = f.after; q.first == nil {
				q.last = nil
			}
			delete(q.flows, f.key)
			f.after, q.spare = q.spare, f
		case f.deficit > 0:
			return f.packets.first
		default:
			f.deficit += quantum
			q.rotate(f)
		}
	}
	return nil
}

// rotate puts the first flow, f, behind the others.
func (q *queue) rotate(f *flow) {
	f.fresh = false
	if f.after != nil {
		q.first = f.after
		q.last.after, q.last, f.after = f, f, nil
	}
}

// pop takes the packet that head returned.
func (q *queue) pop(k *Packet) {
	q.first.packets.remove(k)
	q.first.deficit -= k.Size
	q.first.bytes -= k.Size
	q.bytes -= k.Size
}

// shed takes the oldest packet out of the flow that has most waiting; nil if none has.
func (q *queue) shed() *Packet {
	var most *flow
	for f := q.first; f != nil; f = f.after {
		if most == nil || f.bytes > most.bytes {
			most = f
		}
	}
	if most == nil || most.packets.first == nil {
		return nil
	}
	k := most.packets.first
	most.packets.remove(k)
	most.bytes -= k.Size
	q.bytes -= k.Size
	return k
}
