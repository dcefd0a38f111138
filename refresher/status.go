package refresher

import (
	"context"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// State is what an operator has to know of a source.
type State string

// The states.
const (
	// Fresh: there is a valid token, and nothing to complain of.
	Fresh State = "fresh"

	// Stale: there is a valid token, and the next one could not be had yet, or an
	// upstream has refused this one.
	Stale State = "stale"

	// NoToken: there is no valid token.
	NoToken State = "unavailable"

	// NeedsAuthorization: nothing helps but a person, whether or not the present
	// token is still valid.
	NeedsAuthorization State = "needs_authorization"

	// PerSubject: there is a token for each subject, and none of the source itself.
	PerSubject State = "per_caller"
)

// Status is a refresher at one moment. It holds a token.
type Status struct {
	State State

	// Token is the one in use; nil where there is none.
	Token *tokensource.Token

	// LastRenewal is when it was obtained or adopted, and NextRenewal when another
	// one is to be; zero where that is not known.
	LastRenewal, NextRenewal time.Time

	// Failure is what the last token request came to, with Failures of them in a
	// row; nil where it succeeded. RetryAt is when the next one will be; zero where
	// none will.
	Failure  *tokensource.Error
	Failures int
	RetryAt  time.Time

	// Counter is the token's in the storage; 0 where it is not known.
	Counter uint64

	// Unsaved is true where the token could not be stored yet.
	Unsaved bool

	// Subjects is how many subjects are remembered.
	Subjects int
}

// Status returns what there is to know. It asks nobody.
func (r *Refresher) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Token: r.Current(), Failure: r.failure, Failures: r.failures, Counter: r.version.counter, Unsaved: r.unsaved}
	if s.Token != nil {
		s.LastRenewal = r.landedAt
	}
	if r.subjects != nil {
		s.State, s.Subjects = PerSubject, r.subjects.count()
		s.Failure, s.RetryAt = r.subjects.status()
		return s
	}
	switch {
	case r.needsPerson():
		s.State = NeedsAuthorization
	case s.Token == nil:
		s.State = NoToken
	case r.failure != nil || r.suspect:
		s.State = Stale
	default:
		s.State = Fresh
	}
	switch {
	case r.failure == nil:
		s.NextRenewal = r.due
	case !r.failure.Permanent:
		s.NextRenewal, s.RetryAt = r.retryAt, r.retryAt
	}
	return s
}

// needsPerson says whether nothing helps but a person. The caller holds mu.
func (r *Refresher) needsPerson() bool { return r.failure != nil && r.failure.AuthorizationRequired }

// Look looks into the storage for what another node has stored, where a person
// must authorize this source: that may have been done there.
func (r *Refresher) Look(ctx context.Context) {
	r.mu.Lock()
	var f *flight
	if r.needsPerson() {
		if f = r.peek(); f == nil {
			f = r.flight
		}
	}
	r.mu.Unlock()
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

// Refresh makes a token request now, whatever has been answered before: an
// operator wants it. It returns when that has ended; the error is a
// *tokensource.Error.
func (r *Refresher) Refresh(ctx context.Context) error {
	for asked := false; ; asked = true {
		r.mu.Lock()
		if r.ended || r.environment() == nil {
			r.mu.Unlock()
			return errEnded
		}
		if r.subjects != nil {
			r.mu.Unlock()
			r.subjects.reset() // there is nothing else to obtain: each caller is asked for again
			return nil
		}
		joined := r.flight != nil // which may only look into the storage
		f := r.fly()
		r.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return &tokensource.Error{Reason: "the token request has not ended yet"}
		}
		switch {
		case !asked && f.adopted, joined && f.look: // the provider was not asked
		case f.token == nil && f.err != nil:
			return f.err
		default:
			return nil
		}
	}
}
