package tokensource

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// loginRetry is how long a login is left alone that was refused in words which
// do not tell a wrong password from a passing trouble: a few tries in a row
// lock an account.
const loginRetry = 10 * time.Minute

// send makes one token request by which a grant begins, or goes on.
func (s *Source) send(ctx context.Context, why purpose, current descent, previous *Token) (*Token, *Error) {
	return s.request(ctx, &call{purpose: why, current: current, previous: previous})
}

// call is one request to the provider.
type call struct {
	purpose  purpose
	current  descent
	previous *Token // never nil

	// values are its parameters where the grant by itself has others, or none.
	values url.Values

	// url is the endpoint, of a purpose other than a token, where discovery found it.
	url string

	// secrets are those of its parameters.
	secrets []string

	// subject is the subject token of a caller; "": there is none.
	subject string

	// read reads an answer that is to hold no token; nil: it is to hold one.
	read func(*http.Response) *Error
}

// request sends one request, and returns the token where it was for one.
func (s *Source) request(ctx context.Context, a *call) (*Token, *Error) {
	found, problem := s.found(ctx, a)
	if problem != nil {
		return nil, problem
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	previous := a.previous
	var set *settings
	var exchange *exchange
	var answer *answer
	for again := false; ; again = true {
		if set, problem = s.settle(ctx, a.purpose, a.current, previous.AccessToken, found); problem != nil {
			if problem.Permanent {
				problem.Changed = s.changed(a, found, "")
			}
			return nil, problem
		}
		if a.subject != "" {
			set.subjectToken, set.secrets = a.subject, append(set.secrets, a.subject)
		}
		set.secrets = append(append(set.secrets, a.secrets...), previous.AccessToken)
		exchange, answer, problem = s.ask(ctx, a, set)
		if problem == nil || len(set.others) == 0 || !s.replaceOthers(ctx, set, problem) || again {
			break
		}
	}
	if problem != nil {
		s.doubt(problem)
		login := s.judge(problem)
		set.secrets = append(set.secrets, problem.issued...)
		set.scrubber().error(problem)
		problem.issued = nil
		if problem.Permanent || login {
			passes, changed := problem.Changed, s.changed(a, found, set.digest)
			problem.Changed = func() bool { return passes != nil && passes() || changed() }
		}
		return nil, problem
	}
	if a.read != nil {
		return nil, nil
	}
	token := s.token(exchange, answer, set, previous)
	token.found = found
	return token, nil
}

// found returns what discovery has to say of where a request goes, and how.
func (s *Source) found(ctx context.Context, a *call) (*tokenEndpoint, *Error) {
	if a.purpose != forDevice {
		found, problem := s.discoverToken(ctx, a.previous)
		if problem == nil && a.purpose == forRevocation {
			found = &tokenEndpoint{URL: a.url, ClientAuth: s.clientAuth(found)}
		}
		return found, problem
	}
	m, problem := s.discover(ctx)
	if m == nil {
		if s.config.DeviceURL != "" { // it is known where, and a default how
			problem = nil
		}
		return nil, problem
	}
	return &tokenEndpoint{URL: m.DeviceAuthorizationEndpoint, ClientAuth: s.tokenEndpointOf(m).ClientAuth}, nil
}

func (s *Source) values(set *settings, a *call) map[string][]string {
	switch {
	case a.values != nil:
		return a.values
	case a.purpose == forDevice:
		v := url.Values{}
		setScope(v, set)
		return v
	case a.purpose == forRefresh && s.config.Grant != "custom":
		return refreshValues(set, s.config.Grant, set.refreshToken)
	}
	return s.grant.values(set)
}

func (s *Source) token(x *exchange, a *answer, set *settings, previous *Token) *Token {
	var asked string
	if a, err := s.asked(); err == nil {
		asked = a.digest()
	}
	t := &Token{
		AccessToken:  a.accessToken,
		RefreshToken: a.refreshToken,
		Issued:       x.answered,
		Lifetime:     a.lifetime,
		asked:        asked,
		template:     seedOf(s.config.RefreshToken),
		Scopes:       a.scopes,
		Exposed:      a.exposed,
		exposes:      s.config.Response.Expose,
		proof:        x.proof,
		descents:     previous.descents,
	}
	if t.Scopes == nil { // RFC 6749, section 5.1: it is what was asked for, or what it was before
		t.Scopes = previous.Scopes
		if !x.refresh {
			t.Scopes = set.scopes
		}
	}
	if t.RefreshToken == "" && x.refresh {
		t.RefreshToken = set.refreshToken // RFC 6749, section 6: the old one stays
	}
	if t.RefreshToken != "" {
		t.descents = descend(t.descents, set.seed, t.RefreshToken)
	}
	if x.refresh {
		t.keepExposed(previous)
	}
	t.dropTokens(set)
	known := newScrubber(append(set.secrets, t.AccessToken, t.RefreshToken, set.refreshToken)...)
	t.Scopes = slices.DeleteFunc(slices.Clone(t.Scopes), func(scope string) bool { return known.scrub(scope) != scope })
	t.said = t.Lifetime > 0
	if !t.said && previous.said && t.AccessToken == previous.AccessToken && t.Issued.Before(previous.Issued.Add(previous.Lifetime)) {
		// Some providers issue the same token until it ends, and say at its end
		// that it has no time left.
		t.Issued, t.Lifetime, t.said = previous.Issued, previous.Lifetime, true
	}
	if t.Lifetime == 0 {
		t.Lifetime = s.config.DefaultLifetime
	}
	return t
}

// judge decides what the RFC leaves open: a login with a person's password
// that was refused without one of the RFC's codes is left alone for long. It
// returns whether this is one. A page that is not there says nothing of it.
func (s *Source) judge(e *Error) bool {
	login := s.config.Grant == "password" || s.config.Grant == "custom"
	if !login || e.Permanent || e.RetryAfter != 0 || !refused(e) {
		return false
	}
	switch e.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusMisdirectedRequest:
		return false
	}
	e.RetryAfter = loginRetry
	return true
}

// changed returns what Error.Changed asks: whether the same request would say
// something else now.
func (s *Source) changed(a *call, found *tokenEndpoint, digest string) func() bool {
	return func() bool {
		set, err := s.resolve(a.purpose, a.current, a.previous.AccessToken, found, s.currentOther)
		return err == nil && set.digest != digest
	}
}
