package tokensource

import "time"

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

	// seed is a digest of the configured refresh token from which this one
	// descends.
	seed string
}

// Expiry returns when the token ends by the wall clock; the zero time where
// its lifetime is not known.
func (t *Token) Expiry() time.Time {
	if t.Lifetime == 0 {
		return time.Time{}
	}
	return t.Issued.Round(0).Add(t.Lifetime)
}
