package tokensource

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Error says why there is no token. Its texts hold no secret: what came from
// the provider has been scrubbed, and URLs and bodies are never part of it.
type Error struct {
	// Code is the error code of RFC 6749, section 5.2 (or the provider's
	// own); empty where the answer had none.
	Code string

	// Description and URI are error_description and error_uri, scrubbed and
	// shortened.
	Description string
	URI         string

	// StatusCode is the HTTP status of the answer; 0 where none came.
	StatusCode int

	// Reason is what we can say ourselves, such as "no answer within 10s".
	Reason string

	// Permanent is true where the same request would be refused again: asking
	// again could lock an account.
	Permanent bool

	// RetryAfter is how long the provider wants to be left alone; 0 where it
	// did not say.
	RetryAfter time.Duration

	// Changed reports whether what was sent would be different now, because
	// a secret resolves to another value. It may read files. Nil means never.
	Changed func() bool

	// AuthorizationRequired is true where only a person can help, who authorizes
	// the source at its provider.
	AuthorizationRequired bool

	// RefreshTokenRefused is true where the provider does not take the refresh
	// token of the previous token any more. It need not be sent again.
	RefreshTokenRefused bool

	// Grant and ClientAuth are how a token was asked for, and how the client tried to
	// prove itself: by one of ClientAuthNames, or by a ready client_assertion. Audience
	// is that of the assertions we have signed; "": none. They are empty where nobody
	// was asked.
	Grant, ClientAuth, Audience string

	// Source is the other source that has no token, where that is why; "": it is not.
	Source string

	// Discovery is true where it is the issuer's metadata that could not be had.
	Discovery bool

	// answered is true for an answer that came whole and held no token, in
	// whatever words.
	answered bool

	// issued are the tokens of an answer that is an error all the same.
	issued []string
}

// RefusesSubject says whether it is what is exchanged that the provider does not take
// (RFC 8693, section 2.2.2), and not who exchanges it: another subject may be.
func (e *Error) RefusesSubject() bool {
	switch e.Code {
	case "invalid_request", "invalid_grant", "invalid_token", "access_denied", "invalid_target":
		return e.StatusCode != http.StatusTooManyRequests && e.StatusCode < 500
	}
	return false
}

// Error returns one line for an operator.
func (e *Error) Error() string {
	var parts []string
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.StatusCode != 0 {
		parts = append(parts, fmt.Sprintf("HTTP status %d", e.StatusCode))
	}
	if e.Code != "" {
		parts = append(parts, e.Code)
	}
	text := strings.Join(parts, ", ")
	if e.Description != "" {
		text += ": " + e.Description
	}
	if e.URI != "" {
		text += " (" + e.URI + ")"
	}
	return text
}

// TransportError is an error of a Config's Transport whose text is for an operator,
// and holds no secret.
type TransportError string

func (e TransportError) Error() string { return string(e) }
