package heartbeat

import "math"

// A record is all that is kept for an id. Records are in pages of 32 KiB, which are never moved and
// have no pointer for the garbage collector to follow.
//
// Pages are slices, as the blocks of a pool are, because the length of a slice is beside its pointer:
// to ask a pointer to an array whether it is nil, Go reads what it points to, and the first lines of
// all pages compete for the same few places in the cache.
type record struct {
	plan plan
	last Tick
}

const (
	pageBits = 12
	pageLen  = 1 << pageBits
)

// record returns the record of id, nil if id is on a page that was never used.
func (w *Wheel) record(id uint32) *record {
	if i := id >> pageBits; int(i) < len(w.pages) {
		if pg := w.pages[i]; int(id%pageLen) < len(pg) {
			return &pg[id%pageLen]
		}
	}
	return nil
}

// grown returns the record of id, and makes the page for it if there is none.
func (w *Wheel) grown(id uint32) *record {
	i := int(id >> pageBits)
	if i >= len(w.pages) {
		w.pages = append(w.pages, make([][]record, i+1-len(w.pages))...)
	}
	if w.pages[i] == nil {
		w.pages[i] = make([]record, pageLen)
	}
	for w.dense < math.MaxUint32-pageLen && w.record(w.dense) != nil {
		w.dense += pageLen
	}
	return &w.pages[i][id%pageLen]
}

// A chain says where ids are, 0 for none: the number of its first chunk, shifted, and how many ids that
// one holds. So who adds an id need not read the chunk first, which is seldom in the cache.
type chain uint32

const (
	lenBits  = 6
	chunkLen = 1<<lenBits - 1
)

func (c chain) len() uint32 { return uint32(c) & chunkLen }

// A pool holds chunks in blocks of 32 KiB, none of which has a pointer. A chunk is 256 bytes: the chain
// that it is put before, and then some ids. So a slot takes little more than 4 bytes for each id, and
// is read in sequence; and a chain, as a number, is where its last id is. Chunk 0 is given to none.
type pool struct {
	blocks [][]uint32
	free   []chain // chunks without ids
	made   uint32  // numbers given out so far
}

const (
	blockBits = 13
	blockLen  = 1 << blockBits
)

// at returns where the last id of c's first chunk is, or if it has none the chain after it.
func (p *pool) at(c chain) *uint32 { return &p.blocks[c>>blockBits][c%blockLen] }

// first returns the ids in c's first chunk, the last of them last.
func (p *pool) first(c chain) []uint32 {
	end := uint32(c)%blockLen + 1
	return p.blocks[c>>blockBits][end-c.len() : end]
}

// next returns where the chain after c's first chunk is.
func (p *pool) next(c chain) *uint32 { return p.at(c &^ chunkLen) }

// extend puts an empty chunk before c. It does not read it: a chunk that was free is seldom in the cache.
func (p *pool) extend(c chain) (first chain) {
	if n := len(p.free); n > 0 {
		first, p.free = p.free[n-1], p.free[:n-1]
	} else {
		p.made++
		first = chain(p.made << lenBits)
		if int(first>>blockBits) >= len(p.blocks) {
			p.blocks = append(p.blocks, make([]uint32, blockLen))
		}
	}
	*p.next(first) = uint32(c)
	return first
}

// release frees the first chunk of c, which is empty, and returns the rest.
func (p *pool) release(c chain) chain {
	p.free = append(p.free, c)
	return chain(*p.next(c))
}
