package caddy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// shape is one way in which a provider and the API behind it can be.
type shape struct {
	name string
	of   map[string]string // by the name of the axis
}

func (s *shape) String() string {
	var words []string
	for _, a := range shapeSpace().axes {
		words = append(words, a.name+"="+s.of[a.name])
	}
	return s.name + " (" + strings.Join(words, " ") + ")"
}

// with returns the shape with other values.
func (s *shape) with(name string, pairs ...string) *shape {
	other := &shape{name, maps.Clone(s.of)}
	for i := 0; i < len(pairs); i += 2 {
		other.of[pairs[i]] = pairs[i+1]
	}
	return other
}

// refreshes says whether the second token is had with a refresh token.
func (s *shape) refreshes() bool { return s.of["renewal"] != "again" }

// issuesRefreshTokens says whether some answer has one.
func (s *shape) issuesRefreshTokens() bool {
	return s.refreshes() && !s.renewsByAccessToken() && !(s.of["grant"] == "refresh_token" && s.of["renewal"] == "lasting")
}

// renewsByAccessToken says whether the access token itself leads to the next.
func (s *shape) renewsByAccessToken() bool { return s.of["renewal"] == "access" }

// want is the request that the provider takes at a moment.
func (s *shape) want(m moment) *wanted {
	w := newWanted(m)
	for _, p := range requestProperties {
		for _, c := range p.choices {
			if c.name == s.of[p.name] && c.want != nil {
				c.want(s, w)
			}
		}
	}
	return w
}

// Lifetimes. Where the clock is to bring the second token, the first one ends
// soon, yet not before it was used.
const (
	soonLifetime = 20 * time.Second
	firstLives   = time.Hour
	secondLives  = 2 * time.Hour
)

// lifetime is that of the n-th token, from 1; 0: for ever.
func (s *shape) lifetime(n int) time.Duration {
	switch {
	case s.of["expiry"] == "never":
		return 0
	case n > 1 && s.of["expiry"] != "default": // which is always the same
		return secondLives
	case s.of["trigger"] == "clock":
		return soonLifetime
	}
	return firstLives
}

// share of the lifetime after which a token is renewed.
func (s *shape) share() float64 {
	if s.of["schedule"] == "half" {
		return 0.5
	}
	return 0.8
}

// schedule is what has no part in a token request.
var schedule = []axis{
	{"answer", slices.Sorted(maps.Keys(answerForms))},
	{"expiry", slices.Sorted(maps.Keys(expiries))},
	{"refusal", slices.Sorted(maps.Keys(refusals))},
	{"inject", slices.Sorted(maps.Keys(placements))},
	{"schedule", []string{"default", "half"}},
	{"clock", []string{"right", "ahead", "behind"}}, // of the provider
	{"trigger", []string{"clock", "refusal", "operator"}},
}

// unwritable are the combinations that cannot be written: the product refuses
// them, in words that hold this.
var unwritable = []struct {
	exclusion
	says string
}{
	{exclusion{"method": "GET", "encoding": "!query"}, "a GET has no body, so it goes with query"},
	{exclusion{"grant": "custom", "auth": "!basic raw none key_jwt ready"}, "the grant custom sends client_id and client_secret only as client_secret_basic"},
	{exclusion{"grant": "custom", "scope": "!none"}, "the grant custom has no use for it"},
	{exclusion{"grant": "custom", "renewal": "address get json form"}, "the grant custom sends nothing by itself, so {refresh_token}"},
	{exclusion{"grant": "custom", "auth": "ready", "key": "none"}, "the grant custom has no use for it"},
	{exclusion{"grant": "custom", "proof": "!none"}, "the grant custom has no use for it"},
	{exclusion{"key": "!none", "grant": "!jwt_bearer", "auth": "!key_jwt"}, "has no use for it"},
	{exclusion{"key": "none", "grant": "jwt_bearer"}, "missing; the grant jwt_bearer needs it"},
	{exclusion{"key": "none", "auth": "key_jwt"}, "missing; client_auth private_key_jwt needs it"},
	{exclusion{"claims": "written", "grant": "!jwt_bearer", "auth": "!key_jwt secret_jwt"}, "nothing is signed here"},
	{exclusion{"params": "twice", "encoding": "json body-json body-xml body-form body-text"}, "this stands here twice"},
	{exclusion{"params": "twice", "renewal": "json body"}, "this stands here twice"},
	{exclusion{"params": "json", "encoding": "!json"}, "a JSON value goes with the encoding json alone"},
	{exclusion{"params": "json", "renewal": "get form body"}, "a JSON value goes with the encoding json alone"},
	{exclusion{"header": "authorization", "auth": "basic raw"}, "this field holds the client's credentials already"},
}

// moot are those that say nothing: a value would not be seen.
var moot = []exclusion{
	{"grant": "refresh_token", "renewal": "again"},                // it always refreshes
	{"grant": "custom", "renewal": "rotating lasting"},            // it never does by itself
	{"grant": "refresh_token", "renewal": "access"},               // it begins with a refresh token
	{"answer": "bare quoted", "expiry": "!jwt default never"},     // nothing but the token
	{"answer": "bare quoted", "renewal": "!again lasting access"}, // … and no refresh token …
	{"answer": "bare quoted", "renewal": "lasting", "grant": "!refresh_token"},
	{"answer": "form", "refusal": "number"}, // a form has no objects
	{"answer": "bare quoted", "inject": "response"},
	{"grant": "refresh_token", "encoding": "body-json body-xml body-form body-text"}, // of which renewal=body is the same
	{"grant": "custom", "auth": "key_jwt"},                                           // no private_key, which it needs
	{"expiry": "never", "trigger": "clock"},
	{"expiry": "never", "schedule": "!default"},
}

// shapeSpace is all shapes that there can be.
func shapeSpace() *space {
	s := new(space)
	for _, p := range requestProperties {
		a := axis{name: p.name}
		for _, c := range p.choices {
			a.values = append(a.values, c.name)
		}
		s.axes = append(s.axes, a)
	}
	s.axes = append(s.axes, schedule...)
	for _, u := range unwritable {
		s.forbidden = append(s.forbidden, u.exclusion)
	}
	s.forbidden = append(s.forbidden, moot...)
	return s
}

// partnerToken is the token of the source partner. It is the same one each time, for
// a refusal of what it stands beside has it renewed as well.
const partnerToken = "partner-token+/=~"

// partnerShape is an ordinary provider, whose token other sources use.
var partnerShape = &shape{"partner", map[string]string{
	"method": "POST", "encoding": "form", "grant": "client_credentials", "auth": "basic", "answer": "flat", "expiry": "seconds",
	"refusal": "rfc", "inject": "bearer", "renewal": "again", "proof": "none",
}}

// hundredShapes returns shapes in which every value meets every other.
var hundredShapes = sync.OnceValue(func() (all []*shape) {
	for i, of := range shapeSpace().cover() {
		all = append(all, &shape{fmt.Sprintf("s%03d", i+1), of})
	}
	return all
})
