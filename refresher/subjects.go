package refresher

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// SubjectSource obtains the token of one subject, such as a caller whose own token
// is exchanged. Previous is the one obtained for it before, or nil.
type SubjectSource interface {
	ObtainFor(ctx context.Context, subject string, previous *tokensource.Token) (*tokensource.Token, error)
}

const (
	// mostSubjects is how many are remembered. Of whom nothing was heard for longest
	// is forgotten first.
	mostSubjects = 10_000

	// subjectAge is how long a subject's token is used at most. What the provider
	// has since refused to that subject it is asked again by then.
	subjectAge = 5 * time.Minute

	// subjectIdle is how long one is remembered of whom nothing is heard.
	subjectIdle = 2 * subjectAge

	// mostExchanges is how many token requests are under way at once: whoever sends
	// a request can make a subject up.
	mostExchanges = 64

	// saySubjectsEvery is how often the log has why a subject gets no token.
	saySubjectsEvery = 10 * time.Second
)

// subjects keeps a token for each of many subjects, each by a refresher of its own
// that is asked by requests alone: it has no timer, no storage and no log. They are
// told apart by a digest; the subject itself is kept to ask for it once more.
type subjects struct {
	parent *Refresher
	slots  chan struct{} // one for each token request under way

	mu     sync.Mutex // guards everything below
	known  map[[sha256.Size]byte]*list.Element
	recent *list.List // of *subject, the latest first
	gate   gate
}

type subject struct {
	digest    [sha256.Size]byte
	refresher *Refresher
	heard     time.Time
}

// gate holds everybody back while the provider is down, or refuses the client: what
// one subject was answered then, every other would be.
type gate struct {
	failure  *tokensource.Error
	failures int
	until    time.Time
	lookedAt time.Time // for changed secrets
	saidAt   time.Time
}

func newSubjects(parent *Refresher) *subjects {
	return &subjects{
		parent: parent, slots: make(chan struct{}, mostExchanges),
		known: make(map[[sha256.Size]byte]*list.Element), recent: list.New(),
	}
}

// Of returns the refresher of one subject, of a refresher that was made PerSubject.
// It belongs to this one, and ends with it.
func (r *Refresher) Of(name string) *Refresher {
	s := r.subjects
	digest := sha256.Sum256([]byte(name))
	now := r.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.known[digest]; ok {
		s.recent.MoveToFront(e)
		one := e.Value.(*subject)
		one.heard = now
		return one.refresher
	}
	options := r.options
	options.PerSubject, options.onDemand, options.Lineage = false, true, nil
	one := &subject{digest: digest, refresher: New(options), heard: now}
	one.refresher.now, one.refresher.closed, one.refresher.ended = r.now, r.closed, r.Ended()
	one.refresher.Attach(&Environment{Source: &oneSubject{s, name}, Log: zap.NewNop()})
	s.known[digest] = s.recent.PushFront(one)
	for oldest := s.recent.Back(); s.recent.Len() > mostSubjects || now.Sub(oldest.Value.(*subject).heard) > subjectIdle; oldest = s.recent.Back() {
		s.recent.Remove(oldest)
		delete(s.known, oldest.Value.(*subject).digest)
	}
	return one.refresher
}

// count returns how many subjects are remembered.
func (s *subjects) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recent.Len()
}

// status returns why nobody gets a token now, and until when.
func (s *subjects) status() (failure *tokensource.Error, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.failure == nil || s.gate.failure.Permanent {
		return s.gate.failure, time.Time{}
	}
	return s.gate.failure, s.gate.until
}

// forget ends all of them.
func (s *subjects) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.recent.Front(); e != nil; e = e.Next() {
		one := e.Value.(*subject).refresher
		one.mu.Lock()
		one.ended = true
		one.mu.Unlock()
	}
	s.known, s.recent = make(map[[sha256.Size]byte]*list.Element), list.New()
}

// oneSubject is the Source of one subject's refresher.
type oneSubject struct {
	subjects *subjects
	name     string
}

// Obtain asks with the newest environment of the source.
func (o *oneSubject) Obtain(ctx context.Context, previous *tokensource.Token) (*tokensource.Token, error) {
	s := o.subjects
	r := s.parent
	r.mu.Lock()
	e := r.environment()
	ended := r.ended
	r.mu.Unlock()
	if ended || e == nil {
		return nil, &tokensource.Error{Reason: errEnded.Reason} // and not itself, which says that nobody was to be asked
	}
	if held := s.held(); held != nil {
		return nil, held
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, &tokensource.Error{Reason: "too many token requests are under way"}
	}
	if held := s.held(); held != nil { // meanwhile
		return nil, held
	}
	token, err := e.Source.(SubjectSource).ObtainFor(ctx, o.name, previous)
	if err != nil {
		s.failed(cause(err), e.Log)
		return nil, err
	}
	s.mu.Lock()
	s.gate.failure, s.gate.failures = nil, 0
	s.mu.Unlock()
	if left := subjectAge; token.Lifetime == 0 || token.Lifetime > left {
		short := *token
		short.Lifetime = left
		token = &short
	}
	return token, nil
}

// held returns why nobody is asked now, or nil. A client that the provider refuses is
// refused until a secret changes, or an operator says so.
func (s *subjects) held() error {
	s.mu.Lock()
	failure, now := s.gate.failure, s.parent.now()
	wait := untilEither(s.gate.until, now)
	look := failure != nil && failure.Permanent && failure.Changed != nil && now.Sub(s.gate.lookedAt) >= lookEvery
	if look {
		s.gate.lookedAt = now
	}
	s.mu.Unlock()
	switch {
	case failure == nil, !failure.Permanent && wait <= 0:
		return nil
	case look && failure.Changed():
		s.open(failure)
		return nil
	case failure.Permanent:
		again := *failure
		return &again
	}
	again := *failure
	again.RetryAfter = max(wait, time.Second)
	return &again
}

// open has subjects asked for again, unless there is another failure meanwhile.
func (s *subjects) open(failure *tokensource.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.failure == failure {
		s.gate.failure, s.gate.failures = nil, 0
	}
}

// reset has everybody asked for again.
func (s *subjects) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate{saidAt: s.gate.saidAt}
	s.known, s.recent = make(map[[sha256.Size]byte]*list.Element), list.New()
}

// failed holds the others back, unless it was the subject that was refused.
func (s *subjects) failed(e *tokensource.Error, log *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.parent.now()
	if e.RefusesSubject() { // who was answered about a subject was not refused itself
		s.gate.failure, s.gate.failures = nil, 0
	} else {
		s.gate.failures++
		s.gate.failure, s.gate.lookedAt = e, now
		s.gate.until = now.Add(retryAfter(s.gate.failures, e.RetryAfter, 0, random()))
	}
	if now.Sub(s.gate.saidAt) < saySubjectsEvery {
		return
	}
	s.gate.saidAt = now
	fields := []zap.Field{zap.String("reason", e.Error()), zap.String("code", e.Code), zap.Int("status", e.StatusCode)}
	if e.RefusesSubject() {
		log.Info("a caller's token was not exchanged", fields...)
		return
	}
	if !e.Permanent {
		fields = append(fields, zap.Time("next", s.gate.until))
	}
	log.Error("no token for callers", fields...)
}
