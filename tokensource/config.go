package tokensource

import (
	"net/http"
	"time"
)

// Config describes a token source. Every text may hold placeholders, which are
// resolved by Lookup at each token request, so that a secret that is rotated
// on disk is used by the next request.
type Config struct {
	// Grant is one of GrantNames.
	Grant string

	// TokenURL is the token endpoint (RFC 6749, section 3.2).
	TokenURL string

	// Issuer is whose metadata say what is not written here (RFC 8414, OpenID
	// Connect Discovery). They are fetched when they are needed.
	Issuer string

	// AuthorizeURL, DeviceURL and RevokeURL are the endpoints of RFC 6749, section
	// 3.1, RFC 8628, section 3.1, and RFC 7009.
	AuthorizeURL, DeviceURL, RevokeURL string

	// RedirectURI is where the provider sends the person's browser with the code.
	// Empty: it shows the code itself.
	RedirectURI string

	// AuthorizeParams are further parameters of the authorization URL.
	AuthorizeParams []Param

	// PKCE is "off" where the provider can do none. Empty: S256.
	PKCE string

	// CodeField says which field of a pasted text is the code, counted from 1, and
	// CodeSeparator what stands between fields. 0: the text is the code.
	CodeField     int
	CodeSeparator string

	// ClientID and ClientSecret identify the client.
	ClientID, ClientSecret string

	// ClientAuth is one of ClientAuthNames. Empty: client_secret_basic with a
	// secret, private_key_jwt with a private key or an assertion, none without.
	ClientAuth string

	// PrivateKey signs assertions: see CheckPrivateKey. KeyID names it, where it has
	// no name of its own, and SigningAlg is one of its algorithms; empty: its first.
	PrivateKey, KeyID, SigningAlg string

	// Claims are further ones of the assertion.
	Claims []Claim

	// ClientAssertion is a ready assertion in the place of one that we sign.
	ClientAssertion string

	// DPoP is the algorithm of the proofs that tokens are bound to (RFC 9449): one of
	// SigningAlgs. Empty: tokens are bound to nothing.
	DPoP string

	// SubjectToken is exchanged for a token, and may be Caller; ActorToken says who
	// acts (RFC 8693, section 2.1). Their types may be short: see CheckTokenType.
	SubjectToken, SubjectTokenType, ActorToken, ActorTokenType string

	// ClientCertificate says that Transport proves who we are with a certificate, so
	// that the endpoints for that are used (RFC 8705, section 5).
	ClientCertificate bool

	// RawBasic leaves out the form-encoding of RFC 6749, section 2.3.1 in
	// client_secret_basic, for providers that do not decode it.
	RawBasic bool

	// Username and Password are the resource owner's (RFC 6749, section 4.3).
	Username, Password string

	// RefreshToken is the first one of the grant refresh_token.
	RefreshToken string

	// Scopes limit what is asked for, joined by ScopeSeparator; empty: a space.
	Scopes         []string
	ScopeSeparator string

	// Params are parameters of every token request.
	Params []Param

	// TokenRequest and RefreshRequest say how the requests deviate from a POST
	// of a form. What RefreshRequest does not say is as in TokenRequest; nil
	// means that nothing was written.
	TokenRequest   Request
	RefreshRequest *Request

	// Response says where the answer deviates.
	Response Response

	// DefaultLifetime holds where the answer says none. 0: not known.
	DefaultLifetime time.Duration

	// Timeout bounds one token request. 0: DefaultTimeout.
	Timeout time.Duration

	// InsecureHTTP allows a plain-http URL to a host that is not loopback.
	InsecureHTTP bool

	// Transport sends the requests. Nil: http.DefaultTransport.
	Transport http.RoundTripper

	// Lookup resolves placeholders. Nil: there are none.
	Lookup Lookup

	// Others are the sources that {source.NAME} names in a parameter, a header field,
	// a subject token or an actor token. Nil: there are none.
	Others Others

	// UserAgent is sent with each token request.
	UserAgent string
}

// DefaultTimeout bounds a token request where the configuration does not.
const DefaultTimeout = 10 * time.Second
