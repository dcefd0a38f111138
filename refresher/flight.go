package refresher

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// flight is the one renewal that may be under way. Everybody who needs its
// outcome waits for done. Where no environment is attached yet, it waits
// for one itself.
type flight struct {
	launched bool               // guarded by Refresher.mu
	refused  bool               // likewise: an upstream's refusal has caused it
	look     bool               // likewise: only for what is stored
	number   int                // likewise, of a look: later ones have higher ones
	due      time.Time          // likewise: what the timer was set to, of a look
	adopted  bool               // written before done is closed: the token was there already
	done     chan struct{}      // closed when it has ended
	token    *tokensource.Token // written before done is closed
	err      *tokensource.Error // likewise, where there is no token
}

// fly returns the flight under way, or begins one. The caller holds mu.
func (r *Refresher) fly() *flight {
	if r.ended {
		f := &flight{done: make(chan struct{}), err: errEnded}
		close(f.done)
		return f
	}
	if r.flight == nil {
		r.stopTimer()
		r.flight = &flight{done: make(chan struct{})}
		r.launch()
	}
	return r.flight
}

// launch sends the flight on its way, if there is an environment to do it
// with. The caller holds mu.
func (r *Refresher) launch() {
	e := r.environment()
	if e == nil || r.flight.launched || r.ended {
		return
	}
	r.flight.launched = true
	go r.run(r.flight, e)
}

// run is the flight's goroutine.
func (r *Refresher) run(f *flight, e *Environment) {
	started := r.now()
	out, err := r.renew(e, f.look)
	if err == nil && !alive(out.token, r.now()) {
		err = &tokensource.Error{Reason: "the token had ended when it was there"}
	}

	r.mu.Lock()
	r.flight = nil
	r.doubtful.Store(false)
	if err == error(errEnded) || f.look && err != nil { // nothing was asked
		if err != errNothingNewer && err != errNewer && !isUnreadable(err) {
			r.peekAt = r.now().Add(peekAgain)
			if r.needsPerson() {
				r.peekAt = r.now().Add(grantAgain)
			}
		}
		if !f.due.IsZero() && r.due.IsZero() { // else a person was faster
			r.schedule(f.due)
		}
		if err == errNewer && (r.needsPerson() || out.version.grant > r.version.grant) {
			// A person has authorized it; only, the token has ended since.
			r.failures, r.failure = 0, nil
			r.fly()
		}
		if f.look && r.obtained == nil && r.failure == nil && r.options.Person {
			r.fly() // it was revoked, and now a person is needed
		}
		f.err = errEnded
		r.looked = max(r.looked, f.number)
		r.mu.Unlock()
		close(f.done)
		return
	}
	if out.grants != r.grants { // a person was faster, and is right
		r.overtaken(f)
		r.mu.Unlock()
		close(f.done)
		return
	}
	f.adopted = out.adopted
	if f.refused && !f.adopted {
		r.refusals.asked(r.now())
	}
	first := r.obtained == nil
	if err == nil {
		f.token = out.token
		r.landed(out.token, r.now().Sub(started))
		r.version = out.version
	} else {
		f.err = cause(err)
		r.failed(f.err, out.lifetime)
	}
	report := r.report(e, out, err, first)
	if out.held && err != nil {
		if r.now().Sub(r.heldAt) < sayHeldEvery {
			report = func(*zap.Logger) {}
		} else {
			r.heldAt = r.now()
		}
	}
	if newest := r.environment(); newest != nil && newest != e && newest.store != nil {
		r.keep() // it may have another storage
	}
	unsaved := out.unsaved != nil && !r.unsaved
	if out.unsaved != nil {
		r.unsaved = true
		r.keep()
	}
	r.mu.Unlock()
	close(f.done)
	report(e.Log)
	if unsaved {
		e.Log.Warn("the token could not be stored; it is kept in memory and storing is tried again", zap.String("reason", out.unsaved.Error()))
	}
}

// overtaken ends a flight whose outcome is of a time before a person has authorized
// or revoked the source. The caller holds mu.
func (r *Refresher) overtaken(f *flight) {
	f.token = r.Current()
	switch {
	case !r.due.IsZero():
		r.schedule(r.due)
	case r.obtained == nil && r.options.Person:
		r.fly()
	}
}

// sayHeldEvery is how often the log has what is looked at each second.
const sayHeldEvery = time.Minute

// landed makes a token the current one. One that the provider has issued again
// is renewed when it ends: until then it would only come once more. The caller
// holds mu.
func (r *Refresher) landed(token *tokensource.Token, took time.Duration) {
	before := r.obtained
	again := before != nil && before.AccessToken == token.AccessToken && before.Issued.Equal(token.Issued)
	r.current.Store(token)
	r.obtained, r.landedAt = token, r.now()
	r.suspect = false
	r.failures, r.failure = 0, nil
	switch {
	case token.Lifetime == 0:
	case again:
		r.schedule(token.Issued.Add(token.Lifetime))
	default:
		after := renewAfter(token.Lifetime, r.options.RefreshAt, took, random()) - r.now().Sub(token.Issued)
		r.schedule(r.now().Add(max(after, soonestRenewal)))
	}
}

// failed keeps the current token, unless the upstream refused it and no other
// will come. Lifetime is that of the newest token, if it is known. The caller
// holds mu.
func (r *Refresher) failed(err *tokensource.Error, lifetime time.Duration) {
	r.failure = err
	r.failures++
	r.lookedAt = r.now()
	if err.Permanent {
		if r.suspect && isDead(err) {
			r.current.Store(nil)
		}
		if r.Current() != nil {
			r.scheduleLook()
		}
		return
	}
	pause := retryAfter(r.failures, err.RetryAfter, lifetime, random())
	r.retryAt = r.now().Add(pause)
	r.waitedFor = lifetime > 0 && lifetime <= longestWaited && err.RetryAfter == 0 && pause <= longestWaited
	r.schedule(r.retryAt)
}

// scheduleLook sets the timer for the next look for changed secrets, or for the
// end of the token, of which the log is to know. The caller holds mu.
func (r *Refresher) scheduleLook() {
	due := r.now().Add(lookEvery)
	if t := r.current.Load(); t.Lifetime > 0 {
		if end := t.Issued.Add(t.Lifetime); untilEither(end, r.now()) < lookEvery {
			due = end
		}
	}
	r.schedule(due)
}

// isDead says that the provider itself will not issue another token. Where only
// a secret could not be read, it has not said anything.
func isDead(err *tokensource.Error) bool { return err.Permanent && err.StatusCode != 0 }

// schedule sets the timer. The caller holds mu.
func (r *Refresher) schedule(due time.Time) {
	if r.ended || r.options.onDemand {
		return
	}
	r.stopTimer()
	r.due = due
	r.timer = time.AfterFunc(min(max(0, untilEither(due, r.now())), maxSleep), r.tick)
}

func (r *Refresher) stopTimer() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.due = time.Time{}
}

// tick does what is due. A timer that fires after it was stopped finds nothing
// due.
func (r *Refresher) tick() {
	r.mu.Lock()
	report := r.doDue()
	e := r.environment()
	r.mu.Unlock()
	if report != nil && e != nil {
		report(e.Log)
	}
}

// doDue returns what is to be logged, or nil. The caller holds mu.
func (r *Refresher) doDue() (report func(*zap.Logger)) {
	switch {
	case r.ended || r.flight != nil || r.due.IsZero():
	case untilEither(r.due, r.now()) > 0:
		r.schedule(r.due)
	case r.failure == nil || !r.failure.Permanent:
		r.fly()
	case r.Current() != nil: // nobody waits for a token and so has the secrets looked at
		if r.lookForChange() == nil {
			r.scheduleLook()
		}
	default:
		r.stopTimer() // which is said once
		fields := r.failureFields()
		return func(log *zap.Logger) { log.Error("the token has ended, and there is no other", fields...) }
	}
	return nil
}

// lookForChange begins a look for changed secrets, where nothing else will be
// tried for long and the last look is long ago; those who ask meanwhile wait
// for it, since it asks no provider. It returns nil where there is nothing to
// wait for. The caller holds mu.
func (r *Refresher) lookForChange() chan struct{} {
	if r.look != nil {
		return r.look
	}
	if r.flight != nil || r.failure == nil || r.failure.Changed == nil {
		return nil
	}
	if !r.failure.Permanent && untilEither(r.retryAt, r.now()) <= lookEvery {
		return nil
	}
	if r.now().Sub(r.lookedAt) < lookEvery {
		return nil
	}
	r.look = make(chan struct{})
	go r.lookNow(r.failure)
	return r.look
}

func (r *Refresher) lookNow(failure *tokensource.Error) {
	changed := func() (changed bool) {
		defer func() { _ = recover() }() // as in renew
		return failure.Changed()
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.look)
	r.look = nil
	r.lookedAt = r.now() // not when it began: a slow one is not to be repeated at once
	switch {
	case r.failure != failure || r.ended:
	case changed:
		r.failures, r.failure = 0, nil
		r.fly()
	case failure.Permanent && r.Current() != nil:
		r.scheduleLook()
	}
}

// report returns what is to be logged of a flight, once mu is not held any
// more. One line a flight, and one where a token ends for which there is no
// other: while a provider is down there is one at most each
// second, and soon one each minute.
func (r *Refresher) report(e *Environment, out outcome, err error, first bool) func(*zap.Logger) {
	if err == nil {
		token := out.token
		message := "token renewed"
		switch {
		case out.adopted:
			message = "token adopted"
		case first:
			message = "token obtained"
		}
		fields := tokenFields(token, out.version.counter)
		return func(log *zap.Logger) { log.Info(message, fields...) }
	}
	fields := r.failureFields()
	current := r.Current()
	if r.failure.AuthorizationRequired {
		if current != nil && current.Lifetime > 0 {
			fields = append(fields, zap.Time("expires", current.Expiry()))
		}
		return func(log *zap.Logger) {
			log.Warn("a person must authorize this source", append(fields, zap.String("command", e.Command))...)
		}
	}
	if current == nil {
		return func(log *zap.Logger) { log.Error("no token", fields...) }
	}
	if current.Lifetime > 0 {
		fields = append(fields, zap.Time("expires", current.Expiry()))
	}
	return func(log *zap.Logger) { log.Warn("token not renewed, the present one is served", fields...) }
}

// tokenFields says for how long a token is good.
func tokenFields(token *tokensource.Token, counter uint64) []zap.Field {
	fields := []zap.Field{zap.String("lifetime", "not known")}
	if token.Lifetime > 0 {
		fields = []zap.Field{zap.Duration("lifetime", token.Lifetime), zap.Time("expires", token.Expiry())}
	}
	if counter > 0 {
		fields = append(fields, zap.Uint64("counter", counter))
	}
	return fields
}

// failureFields says what the last token request came to. The caller holds mu.
func (r *Refresher) failureFields() []zap.Field {
	e := r.failure
	fields := []zap.Field{zap.String("reason", e.Error()), zap.Int("failures", r.failures)}
	if e.Code != "" {
		fields = append(fields, zap.String("code", e.Code))
	}
	if e.StatusCode != 0 {
		fields = append(fields, zap.Int("status", e.StatusCode))
	}
	if e.AuthorizationRequired {
		return fields
	}
	if e.Permanent {
		return append(fields, zap.String("until", "not tried again until a secret or an option of the source changes, or Caddy is restarted"))
	}
	return append(fields, zap.Time("next", r.retryAt))
}
