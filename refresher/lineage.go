package refresher

import (
	"crypto/rand"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// Lineage is the tokens that descend from one refresh token, each of which may
// be spent for the next. Refreshers that share a lineage ask one at a time, and
// each begins with the newest token of them all. Between processes a Store does
// what a lineage does within one.
type Lineage struct {
	newest chan state // empty while somebody has the turn
	node   string     // its name among all that share a storage
	claims atomic.Uint64
	store  atomic.Pointer[patientStore] // of the configuration that was started last

	// others are those whose intents were seen; whoever has the turn may touch it.
	others map[claimID]*other
}

// state is the newest token of a lineage, and what is known of its storage.
type state struct {
	token   *tokensource.Token
	counter uint64
	origin  string // which history of records counter belongs to

	looked  time.Time // when the storage was read last; zero: never
	shared  bool      // another node was seen at work
	unsaved bool      // token could not be stored
	granted bool      // a person has authorized it, and it is not stored: it is newer than what is
	lost    bool      // the storage has lost the record, and others may have a newer one
	claim   uint64    // of the intent by which it was obtained, while it is unsaved; 0: none
}

// NewLineage returns a lineage without a token.
func NewLineage() *Lineage {
	l := &Lineage{newest: make(chan state, 1), node: strings.ToLower(rand.Text()[:16]), others: make(map[claimID]*other)}
	l.newest <- state{}
	return l
}

// isOther says whether a record is of another history.
func (s *state) isOther(r *Record) bool { return s.origin != "" && r.Origin != s.origin }

// take makes a record the newest.
func (s *state) take(r *Record, token *tokensource.Token) {
	s.token, s.counter, s.origin = token, r.Counter, r.Origin
	s.unsaved, s.lost, s.granted, s.claim = false, false, false, 0
}

// ahead is how far the counter of what a person has authorized or revoked is ahead
// of what is stored: no renewal that is under way shall come out equal.
const ahead = 8

// outrank numbers the state so that it is newer than a record, if there is one.
func (s *state) outrank(r *Record) {
	if r != nil {
		s.origin, s.counter = r.Origin, max(s.counter, r.Counter)
		s.shared = s.shared || r.Shared
	}
	if s.origin == "" {
		s.origin = rand.Text() // a history begins
	}
	s.counter += ahead
}

func (s *state) record() *Record {
	return &Record{Counter: s.counter, Origin: s.origin, Token: s.token, Shared: s.shared}
}
