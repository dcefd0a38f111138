package tokensource

import (
	"cmp"
	"encoding/base64"
	"math"
	"net/http"
	"strings"
	"time"
)

// lifetime takes the first believable of all that may say when the token
// ends; first what the user has pointed at.
func (f *Response) lifetime(doc *document, token string, clock time.Time) time.Duration {
	unit := cmp.Or(f.ExpiresInUnit, time.Second)
	var found time.Duration
	if f.ExpiresIn != "" {
		found = lasting(doc.value(f.ExpiresIn, ""), unit)
	}
	if f.ExpiresAt != "" {
		found = cmp.Or(found, until(doc.value(f.ExpiresAt, ""), f.ExpiresAtFormat, clock))
	}
	if f.ExpiresIn == "" {
		found = cmp.Or(found, lasting(doc.top.get("expires_in"), unit))
	}
	if f.ExpiresAt == "" {
		// Facebook, GitHub and Strava, Azure.
		for _, name := range []string{"expires", "expires_at", "expires_on"} {
			found = cmp.Or(found, until(doc.top.get(name), "", clock))
		}
	}
	return cmp.Or(found, until(jwtExpiry(token), "unix", clock))
}

// lasting reads a lifetime; PayPal once sent it as a string, others as a
// float. 0 and less are "unknown" with some providers (Mailchimp: a token that
// does not end) and a slip with others.
func lasting(value any, unit time.Duration) time.Duration {
	n, ok := number(text(value))
	if !ok || n*float64(unit) > float64(maxLifetime) {
		return 0
	}
	return believable(time.Duration(max(n, 0) * float64(unit)))
}

// until reads a point in time. What is too small for an epoch of our days is a
// lifetime (Facebook's expires); what is too large, is in milliseconds.
func until(value any, format string, clock time.Time) time.Duration {
	const oldestEpoch, oldestEpochMilli = 1e9, 1e11 // 2001 and 1973
	n, isNumber := number(text(value))
	switch {
	case format == "rfc3339" || format == "" && !isNumber:
		return believable(parseTime(text(value)).Sub(clock))
	case !isNumber:
		return 0
	case format == "" && n < oldestEpoch:
		return lasting(value, time.Second)
	case format == "unix_ms" || format == "" && n >= oldestEpochMilli:
		n /= 1000
	}
	if n > oldestEpochMilli { // beyond what a time.Time holds, at the latest
		return 0
	}
	seconds, fraction := math.Modf(n)
	return believable(time.Unix(int64(max(seconds, 0)), int64(fraction*1e9)).Sub(clock))
}

// parseTime returns the zero time, which is past, for anything without a time
// zone: an hour too long is worse than not to know.
func parseTime(s string) time.Time {
	s = strings.TrimSpace(s)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at
		}
	}
	at, err := http.ParseTime(s) // ASP.NET's .expires
	if err != nil {
		return time.Time{}
	}
	return at
}

func believable(d time.Duration) time.Duration {
	if d < minLifetime || d > maxLifetime {
		return 0
	}
	return d
}

// jwtExpiry returns the exp of a token that is a JWT (RFC 7519), else nil.
// Nothing is verified: a wrong time here harms only who sent it.
func jwtExpiry(token string) any { return lookup(jwtClaims(token), "exp") }

// jwtClaims returns what a token that is a JWT says of itself, else nil.
func jwtClaims(token string) any {
	if strings.Count(token, ".") != 2 {
		return nil
	}
	payload := strings.TrimRight(strings.Split(token, ".")[1], "=")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	claims, err := parseJSON(text)
	if err != nil {
		return nil
	}
	return claims
}

// jwtEnd returns when a token that is a JWT ends; false: it does not say.
func jwtEnd(token string) (time.Time, bool) {
	seconds, ok := number(text(jwtExpiry(token)))
	if !ok || seconds <= 0 || seconds > float64(math.MaxInt32)*100 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}
