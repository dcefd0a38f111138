package tokensource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// negligible is a difference between two clocks that is rather the way of the
// answer; worthTelling one that an operator should know.
const (
	negligible   = 3 * time.Second
	worthTelling = 30 * time.Second
)

// ask sends a request, signed as the provider wants it. Where that could not be
// known, because its clock is another or because it wants a nonce (RFC 9449, section
// 8), the first answer tells it, and the request is sent once more. What was taken
// at last is signed by from then on: a Date alone may be that of a proxy in front.
func (s *Source) ask(ctx context.Context, a *call, set *settings) (*exchange, *answer, *Error) {
	proof, problem := s.proofKeyFor(a.purpose, a.previous)
	if problem != nil {
		return nil, nil, problem
	}
	ahead := time.Duration(s.ahead.Load())
	for signedAnew, nonced := false, false; ; {
		nonce := s.nonce.Load()
		x := &exchange{
			settings: set, config: &s.config, grant: s.config.Grant, refresh: a.purpose == forRefresh,
			read: a.read, permit: permitOf(ctx), clock: time.Now().Add(ahead), skew: time.Duration(s.skew.Load()), proof: proof,
		}
		if nonce != nil {
			x.nonce = *nonce
		}
		if err := set.sign(x.clock); err != nil {
			return nil, nil, unsigned(err, ahead)
		}
		answer, problem := s.exchange(ctx, a, x)
		s.learn(x)
		if problem == nil {
			s.ahead.Store(int64(ahead))
			return x, answer, x.binding(answer)
		}
		isSigned := proof != nil || set.signs()
		switch {
		case problem.Code == "use_dpop_nonce" && proof != nil && x.nonce != "" && !nonced:
			nonced = true
			continue
		case isSigned && a.refusesSignature(problem) && (x.skew-ahead).Abs() > negligible && !signedAnew:
			signedAnew, ahead = true, x.skew
			continue
		}
		problem.Grant, problem.ClientAuth = s.config.Grant, set.clientAuth
		if set.readyAssertion != "" {
			problem.ClientAuth = "client_assertion"
		}
		if set.signs() {
			problem.Audience = set.audienceOf(problem)
		}
		if isSigned && x.skew.Abs() > worthTelling {
			problem.Reason = withClock(problem.Reason, x.skew)
		}
		return x, nil, problem
	}
}

// unsigned says why nothing could be signed.
func unsigned(err error, ahead time.Duration) *Error {
	e := &Error{Reason: err.Error(), Permanent: true}
	if early, ok := errors.AsType[tooEarly](err); ok {
		e.Changed = func() bool { return !time.Now().Add(ahead).Before(early.until) }
	}
	return e
}

// audienceOf returns whom the assertion was for that was refused.
func (s *settings) audienceOf(e *Error) string {
	if s.assertion != "" && e.Code != "invalid_client" {
		return s.url
	}
	return s.audience
}

// binding refuses a token that was to be bound to our key, and is not. One that came
// with a refresh token is taken as it is: that one may be the last.
func (x *exchange) binding(a *answer) *Error {
	if x.proof == nil || a == nil || !strings.EqualFold(a.tokenType, "Bearer") {
		return nil
	}
	x.proof = nil
	if a.refreshToken != "" {
		return nil
	}
	return &Error{
		Reason:    "dpop: the provider has not bound the token to our key, and calls it a Bearer token: it does not speak DPoP, or not to this client",
		Permanent: true, // it would be issued and thrown away again and again
		issued:    []string{a.accessToken},
	}
}

// signs says whether we have signed what was sent, by our clock.
func (s *settings) signs() bool { return s.assertion != "" || s.signsClient }

// refusesSignature says whether an answer can mean that what was signed came at the
// wrong time, and nothing was spent: who sends a refresh token or a code twice loses
// the grant.
func (a *call) refusesSignature(e *Error) bool {
	spends := a.purpose != forToken || a.values != nil
	switch e.Code {
	case "invalid_client", "invalid_dpop_proof", "invalid_client_assertion":
		return true
	case "invalid_grant", "invalid_request", "unauthorized_client":
		return !spends
	case "":
		return !spends && e.StatusCode >= 400 && e.StatusCode < 500 && e.StatusCode != http.StatusTooManyRequests
	}
	return false
}

// learn keeps what an answer says of the provider's clock, and its nonce.
func (s *Source) learn(x *exchange) {
	if !x.answered.IsZero() {
		skew := x.skew
		if skew.Abs() <= negligible {
			skew = 0
		}
		s.skew.Store(int64(skew))
	}
	if x.proof != nil && x.nonce != "" {
		s.nonce.Store(&x.nonce)
	}
}

func withClock(reason string, skew time.Duration) string {
	word := "ahead of"
	if skew < 0 {
		word = "behind"
	}
	text := fmt.Sprintf("its clock is %s %s ours", skew.Abs(), word)
	if reason == "" {
		return text
	}
	return reason + "; " + text
}

// exchange sends one request over x/oauth2.
func (s *Source) exchange(ctx context.Context, a *call, x *exchange) (*answer, *Error) {
	set := x.settings
	method := clientAuths[set.clientAuth]
	conf := clientcredentials.Config{
		ClientID:       set.clientID,
		TokenURL:       set.url,
		AuthStyle:      cmp.Or(method.style, oauth2.AuthStyleInParams),
		EndpointParams: s.values(set, a),
	}
	if method.secret {
		conf.ClientSecret = set.clientSecret
	}
	client := &http.Client{Transport: x}
	_, failed := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	return x.result(failed)
}
