package tokensource

import (
	"slices"
	"time"
)

// Token is what a token endpoint issued (RFC 6749, section 5.1). It is not
// changed once it has been handed out.
type Token struct {
	// AccessToken is never empty and holds no control bytes.
	AccessToken string

	// RefreshToken is empty where the provider issued none.
	RefreshToken string

	// Issued is when the answer arrived, by the clock of this machine.
	Issued time.Time

	// Lifetime counts from Issued. 0 means that the provider did not say:
	// the token is used until it is refused.
	Lifetime time.Duration

	// Scopes are what the provider has granted, where it has said so.
	Scopes []string

	// Exposed are further values of the answer, by the names that
	// Response.Expose gives them: no secrets, without control characters. A name
	// is missing where no answer has had its value.
	Exposed map[string]string

	// exposes is Response.Expose of the source that obtained it.
	exposes map[string]string

	// isLast says that no refresh can be asked for with it.
	isLast bool

	// said is true where the provider has said the lifetime.
	said bool

	// asked is what was asked for; see Source.asked.
	asked string

	// template is a digest of the option refresh_token of the source that
	// obtained it.
	template string

	// found is what discovery told of the token endpoint, so that a renewal in
	// another process needs none; nil where none was needed.
	found *tokenEndpoint

	// proof is the key that the token is bound to; nil: to none.
	proof *proofKey

	// descents are by which configured refresh token this one and those before
	// it came, the newest last.
	descents []descent
}

// descent is the newest refresh token that came by a configured one.
type descent struct {
	seed  string // a digest of the configured one; empty where there is none
	token string
}

// mostDescents is how many configured refresh tokens are remembered: an
// operator may go back to an earlier one, which is spent.
const mostDescents = 8

// WithoutRefreshToken returns the token without its refresh token, which is of
// no use any more. Nor does it lead to another by itself.
func (t *Token) WithoutRefreshToken() *Token {
	bare := *t
	bare.RefreshToken, bare.descents, bare.isLast = "", nil, true
	return &bare
}

// Expiry returns when the token ends by the wall clock; the zero time where
// its lifetime is not known.
func (t *Token) Expiry() time.Time {
	if t.Lifetime == 0 {
		return time.Time{}
	}
	return t.Issued.Round(0).Add(t.Lifetime)
}

// descend notes that a refresh token came by a configured one.
func descend(descents []descent, seed, token string) []descent {
	descents = slices.DeleteFunc(slices.Clone(descents), func(d descent) bool { return d.seed == seed })
	descents = append(descents, descent{seed, token})
	return descents[max(0, len(descents)-mostDescents):]
}
