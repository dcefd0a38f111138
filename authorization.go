package injecttoken

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// authorizationStatus is how far an authorization has come.
type authorizationStatus string

const (
	// The person has not said yes or no.
	authorizationPending authorizationStatus = "pending"

	// The code is at the provider. It cannot be sent again.
	authorizationExchanging authorizationStatus = "exchanging"

	// There is a token.
	authorizationGranted authorizationStatus = "granted"

	// The person or the provider said no, or something went wrong.
	authorizationFailed authorizationStatus = "failed"

	// The process that had the code, or waited for the device, has ended before the
	// token was stored. It is never written: others see it.
	authorizationLost authorizationStatus = "lost"

	// Nobody has said anything in time. It is never written either.
	authorizationExpired authorizationStatus = "expired"
)

const (
	// authorizationLifetime is how long a person has.
	authorizationLifetime = 10 * time.Minute

	// authorizationRemembered is how long it can be asked what became of one.
	authorizationRemembered = 10 * time.Minute

	// maxAuthorizationAge is when even one by device is forgotten.
	maxAuthorizationAge = time.Hour

	// mostAuthorizations is how many of a source may be pending.
	mostAuthorizations = 20

	// mostTries is how often a person may mistype a code.
	mostTries = 5

	// beatEvery is how often a process that works on an authorization says that it
	// is alive, and lostAfter how long others wait for that.
	beatEvery = 2 * time.Second
	lostAfter = 10 * time.Second
)

// authorization is one that was begun: what is stored of it, and what of that an
// operator gets to see. It belongs to the identity of its source.
type authorization struct {
	ID      string              `json:"id"`
	Source  string              `json:"source"`
	Status  authorizationStatus `json:"status"`
	Began   time.Time           `json:"began"`
	Expires time.Time           `json:"expires"`

	// AuthorizationURL is only in the answer to who has begun it: it holds the state.
	AuthorizationURL string `json:"authorization_url,omitempty"`
	RedirectURI      string `json:"redirect_uri,omitempty"`

	// Of a device.
	UserCode                string `json:"user_code,omitempty"`
	VerificationURI         string `json:"verification_uri,omitempty"`
	VerificationURIComplete string `json:"verification_uri_complete,omitempty"`
	Interval                int    `json:"interval,omitempty"` // in seconds

	// What has become of it.
	Error        string     `json:"error,omitempty"`
	Message      string     `json:"message,omitempty"`
	Scopes       []string   `json:"scopes,omitempty"`
	TokenExpires *time.Time `json:"token_expires,omitempty"`
	Refreshable  bool       `json:"refreshable,omitempty"`

	work
}

// work is what is not for operators.
type work struct {
	code   *tokensource.Authorization
	device *tokensource.DeviceAuthorization
	tries  int
	node   string    // that works on it
	beat   time.Time // when that said so last
}

// newState returns a state that names its source, so that an answer is looked for in
// one place.
func newState(source string) string { return source + "." + rand.Text() }

// sourceOf returns the name of the source in a state.
func sourceOf(state string) string {
	name, _, _ := strings.Cut(state, ".")
	return name
}

// idOf is the name of an authorization, from which its state cannot be told.
func idOf(state string) string {
	sum := sha256.Sum256([]byte(state))
	return hex.EncodeToString(sum[:8])
}

// seen returns what an operator gets to see: the status as it is now.
func (a *authorization) seen(now time.Time) *authorization {
	view := *a
	view.work = work{}
	patience := lostAfter
	if a.device != nil {
		patience += 2 * a.device.Interval
	}
	silent := now.Sub(a.beat) > patience
	switch {
	case a.Status == authorizationExchanging && silent:
		view.Status = authorizationLost
		view.Message = "The process that sent the code to the provider has ended before the token was stored. The code cannot be sent again: authorize again."
	case a.Status == authorizationPending && now.After(a.Expires):
		view.Status = authorizationExpired
		view.Message = cmp.Or(a.Message, "Nobody has authorized it in time.")
	case a.Status == authorizationPending && a.device != nil && silent:
		view.Status = authorizationLost
		view.Message = "The process that waited for the device has ended. Authorize again."
	}
	return &view
}

// granted notes what there is now.
func (a *authorization) granted(t *tokensource.Token, stored bool) {
	a.Status, a.Error, a.Message = authorizationGranted, "", ""
	a.Scopes, a.Refreshable = t.Scopes, t.RefreshToken != ""
	if expiry := t.Expiry(); !expiry.IsZero() {
		a.TokenExpires = &expiry
	}
	if !stored {
		a.Message = "The token is in use, but could not be stored yet. That is tried again; it would be lost if Caddy ended before."
	}
}

// failed notes why there is no token. Who has typed a code may try another one
// where that was wrong, or the provider did not get it.
func (a *authorization) failed(e *tokensource.Error, typed bool) {
	a.Error, a.Message, a.Status = e.Code, explain(e), authorizationFailed
	wrong := e.Code == "invalid_grant" && a.code != nil
	if wrong {
		a.Message = "the provider does not take this code: it is wrong, spent or too old; it said " + e.Error()
		if a.RedirectURI != "" {
			a.Message += "; also see that redirect_uri is the one that is registered there"
		}
	}
	if typed && a.tries < mostTries && (wrong || e.StatusCode == 0 && e.Code == "") {
		a.Status = authorizationPending
	}
}
