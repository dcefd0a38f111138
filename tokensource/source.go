// Package tokensource obtains a token from an OAuth 2.0 provider.
//
// A [Source] is one grant (RFC 6749) together with its provider's dialect:
// everything in which that provider deviates from the RFC. It sends one token
// request when it is asked and reads the answer leniently. It keeps no token and
// starts no goroutine; see package refresher for that.
//
// A grant is a file grant_NAME.go that says which parameters are sent, and how a
// person begins it where that takes one. call.go is one request: settings.go
// resolves its secrets, client_auth.go says how the client proves itself, key.go and
// assertion.go make what it signs, dpop.go the proofs that tokens are bound to, and
// signed.go sends it once more where the provider's clock is another. dialect.go sends
// it as the provider wants it, answer.go and answer_error.go read what comes back, and
// scrub.go takes the secrets out of what the provider says. others.go is how one
// source sends the token of another. discovery.go fetches what a provider publishes of itself, and
// revocation.go gives tokens back. No quirk of a provider is more than data in a
// [Config].
package tokensource

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// A Source obtains tokens. It is safe for concurrent use.
type Source struct {
	config Config
	grant  Grant

	metadata atomic.Pointer[metadata] // fetched last; nil: none, or not to be relied on
	doubtful atomic.Bool              // what was found before is to be looked for again

	skew  atomic.Int64           // by which the provider's clock was ahead at last, in nanoseconds
	ahead atomic.Int64           // likewise, of the clock by which was signed what it has taken
	nonce atomic.Pointer[string] // its last one for a DPoP proof; nil: none
}

// New returns a source for a valid configuration; see Config's fields and
// Grant for what that means. It sends nothing.
func New(config Config) (*Source, error) {
	grant, ok := grants[config.Grant]
	if !ok {
		return nil, errors.New("tokensource: unknown grant")
	}
	if config.ScopeSeparator == "" {
		config.ScopeSeparator = " "
	}
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	if config.Transport == nil {
		config.Transport = http.DefaultTransport
	}
	return &Source{config: config, grant: grant}, nil
}

// Obtain sends a token request and returns the token that was issued. The
// refresh token of the previous token is used where there is one; where the
// provider does not take it any more, a second request is sent with the grant
// itself if that needs no person. Previous may be nil. An error is always an
// *Error.
//
// The context bounds both requests. It must not descend from the request of a
// caller: a rotated refresh token would be lost when that one leaves.
func (s *Source) Obtain(ctx context.Context, previous *Token) (*Token, error) {
	if previous == nil {
		previous = new(Token)
	}
	current, err := s.current(previous)
	if err != nil {
		return nil, err
	}
	if s.grant.BeginsWithRefreshToken() {
		return s.outcome(s.send(ctx, forRefresh, current, previous))
	}
	if s.grant.Person {
		return s.outcome(s.goOn(ctx, current, previous))
	}
	spent := false
	if current.token != "" && s.refreshes() || s.renewable(previous) {
		token, err := s.send(ctx, forRefresh, current, previous)
		if err == nil || !refused(err) {
			return s.outcome(token, err)
		}
		spent = current.token != ""
		previous = previous.WithoutRefreshToken()
	}
	token, err := s.send(ctx, forToken, current, previous)
	if err != nil {
		err.RefreshTokenRefused = spent
	}
	return s.outcome(token, err)
}

// goOn renews what a person has authorized, for as long as the provider wants.
func (s *Source) goOn(ctx context.Context, current descent, previous *Token) (*Token, *Error) {
	if current.token == "" && !s.renewable(previous) {
		return nil, &Error{
			Code:                  "authorization_required",
			Reason:                "a person must authorize this source",
			Permanent:             true,
			AuthorizationRequired: true,
		}
	}
	token, err := s.send(ctx, forRefresh, current, previous)
	switch {
	case err == nil:
	case err.Code == "invalid_grant" && err.Permanent:
		err.AuthorizationRequired = true
	case current.token == "" && refused(err) && !previous.Expiry().IsZero() && time.Now().After(previous.Expiry()):
		err.Permanent, err.AuthorizationRequired = true, true // an access token that has ended leads to no other
	}
	return token, err
}

// outcome keeps a nil *Error from becoming an error that is not nil.
func (*Source) outcome(token *Token, err *Error) (*Token, error) {
	if err != nil {
		return nil, err
	}
	return token, nil
}

// refreshes says whether a refresh token in an answer is of use.
func (s *Source) refreshes() bool {
	return s.grant.Refreshes || s.config.RefreshRequest != nil
}

// sendsAccessToken says whether a refresh is asked for with the access token.
func (s *Source) sendsAccessToken() bool {
	return s.config.RefreshRequest != nil && s.config.RefreshRequest.Places(AccessTokenPlaceholder)
}

// renewable says whether a token leads to the next without a refresh token.
func (s *Source) renewable(t *Token) bool {
	return s.sendsAccessToken() && !s.config.RefreshRequest.Places(RefreshTokenPlaceholder) && t.AccessToken != "" && !t.isLast
}

// current returns the refresh token to send: the newest that came by the
// configured one, or the configured one itself, where the token is empty. One
// that is new in the configuration is used at once, and a spent one never again.
func (s *Source) current(previous *Token) (descent, *Error) {
	descents := previous.descents
	if len(descents) == 0 && previous.RefreshToken != "" {
		descents = descend(nil, "", previous.RefreshToken)
	}
	r := resolver{lookup: s.config.Lookup}
	var seed string
	configured, err := r.secret("refresh_token", s.config.RefreshToken)
	switch {
	case err != nil && previous.RefreshToken != "" && previous.template == seedOf(s.config.RefreshToken):
		// It is gone, and not needed any more.
		return descents[len(descents)-1], nil
	case err != nil:
		return descent{}, &Error{Reason: err.Error(), Permanent: true, Changed: func() bool {
			_, err := r.secret("refresh_token", s.config.RefreshToken)
			return err == nil
		}}
	case configured != "":
		seed = seedOf(configured)
	}
	for _, d := range descents {
		if d.seed == seed {
			return d, nil
		}
	}
	return descent{seed: seed}, nil
}

func seedOf(refreshToken string) string { return digest([]string{refreshToken}) }

// refused says that the provider answered and did not take what was sent, in
// whatever words: asking with the grant itself may help. A client that is not
// known would not be known then either.
func refused(e *Error) bool {
	switch {
	case e.Code == "invalid_client":
		return false
	case e.answered:
		return true
	case e.Permanent:
		return e.StatusCode != 0
	case e.StatusCode == http.StatusRequestTimeout, e.StatusCode == http.StatusTooEarly,
		e.StatusCode == http.StatusTooManyRequests:
		return false
	}
	said := e.Code != "" || e.Description != ""
	return e.StatusCode >= 400 && e.StatusCode < 500 || e.StatusCode/100 == 2 && said
}

// Ready says what keeps a token request from being sent, as far as that can be told
// without one: secrets that cannot be read, a key that cannot sign, or metadata that
// cannot be had. The
// error is an *Error.
func (s *Source) Ready(ctx context.Context) error {
	why := forToken
	switch s.config.Grant {
	case "authorization_code":
		_, err := s.Authorize(ctx, "")
		return err
	case "device_code":
		why = forDevice
	}
	found, problem := s.found(ctx, &call{purpose: why, previous: new(Token)})
	if problem != nil {
		return problem
	}
	set, problem := s.settle(ctx, why, descent{}, "", found)
	if problem != nil {
		return problem
	}
	if err := set.sign(time.Now()); err != nil {
		return &Error{Reason: err.Error(), Permanent: true}
	}
	return nil
}
