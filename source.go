package injecttoken

import (
	"cmp"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddytoken/inject-token/tokensource"
)

// Source is a token source: one grant at one provider, for one upstream or a
// few.
//
// Texts may hold the placeholders `{env.*}`, `{file.*}` and `{system.*}`, which
// are resolved at each token request. Secrets should be such a placeholder:
// what is written out is seen by all who can read the configuration.
type Source struct {
	// A provider of the built-in list, which says what is not written here.
	Provider *Provider `json:"provider,omitempty"`

	// How a token is obtained: `client_credentials`, `password`, `refresh_token`,
	// `jwt_bearer` (a signed assertion, as of a service account), `token_exchange`
	// (another token is exchanged), `authorization_code` or `device_code`, which a
	// person begins with `caddy token-source authorize`, or `custom` for a login that
	// is not OAuth, which sends nothing but the parameters given here. Required.
	Grant string `json:"grant,omitempty"`

	// The provider's token endpoint. Required, unless issuer is given; https, or
	// http on loopback.
	TokenURL string `json:"token_url,omitempty"`

	// The provider's issuer identifier: the metadata that it publishes (RFC 8414,
	// OpenID Connect Discovery) say where the endpoints are that are not written
	// here. They are fetched when they are needed.
	Issuer string `json:"issuer,omitempty"`

	// The provider's authorization endpoint, of the authorization_code grant.
	AuthorizeURL string `json:"authorize_url,omitempty"`

	// The provider's device authorization endpoint, of the device_code grant.
	DeviceURL string `json:"device_url,omitempty"`

	// The provider's revocation endpoint (RFC 7009).
	RevokeURL string `json:"revoke_url,omitempty"`

	// Where the provider sends the person's browser with the code, as it is
	// registered there; usually a site with token_callback. Default: the provider
	// shows the code, and the person pastes it.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// Further parameters of the authorization URL.
	AuthorizeParams []AuthorizeParam `json:"authorize_params,omitempty"`

	// PKCE (RFC 7636): `S256` (the default), or `off` for a provider that refuses
	// its parameters.
	PKCE string `json:"pkce,omitempty"`

	// Which field of a pasted text is the code, counted from 1. Default: the text is
	// the code, or the address at which the browser ended.
	CodeField int `json:"code_field,omitempty"`

	// What stands between the fields of a pasted text.
	CodeSeparator string `json:"code_separator,omitempty"`

	// The client's identifier.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client proves itself: `client_secret_basic` (the default with a
	// secret), `client_secret_post`, `client_secret_query`, `client_secret_jwt`,
	// `private_key_jwt` (the default with a private key or an assertion),
	// `tls_client_auth` or `self_signed_tls_client_auth` (RFC 8705, with the client
	// certificate of transport), or `none` (the default without any of these).
	ClientAuth string `json:"client_auth,omitempty"`

	// Leaves out the form-encoding of Basic credentials that RFC 6749 asks for,
	// for providers that do not decode it.
	ClientAuthRaw bool `json:"client_auth_raw,omitempty"`

	// The key that signs assertions: PEM, behind which its certificates may stand, a
	// JWK, or a Google service account's JSON file as it is downloaded.
	PrivateKey string `json:"private_key,omitempty"`

	// The key's name at the provider (kid). Default: that which it has itself.
	KeyID string `json:"key_id,omitempty"`

	// The algorithm of assertions: one that fits the key. Default: `RS256`, or what
	// the curve or the JWK says; `HS256` of client_secret_jwt.
	SigningAlg string `json:"signing_alg,omitempty"`

	// Further claims of the assertion, or others than the usual ones: of jwt_bearer
	// its own, else that of the client.
	Claims []Claim `json:"claims,omitempty"`

	// A ready assertion that proves the client, such as
	// `{file./var/run/secrets/tokens/provider}` (workload identity). It is read at
	// each token request.
	ClientAssertion string `json:"client_assertion,omitempty"`

	// Binds tokens to a key that never leaves (DPoP, RFC 9449): the algorithm of its
	// proofs, such as `ES256`.
	DPoP string `json:"dpop,omitempty"`

	// The token that token_exchange exchanges, or `caller`: the one that each caller
	// brings in its own Authorization.
	SubjectToken string `json:"subject_token,omitempty"`

	// What it is: `access_token` (the default), `refresh_token`, `id_token`, `saml1`,
	// `saml2`, `jwt`, or a whole URI.
	SubjectTokenType string `json:"subject_token_type,omitempty"`

	// The token of who acts for the subject.
	ActorToken string `json:"actor_token,omitempty"`

	// What that is, as of the subject token.
	ActorTokenType string `json:"actor_token_type,omitempty"`

	// The user's name, of the password grant.
	Username string `json:"username,omitempty"`

	// The user's password, of the password grant.
	Password string `json:"password,omitempty"`

	// The first refresh token, of the refresh_token grant.
	RefreshToken string `json:"refresh_token,omitempty"`

	// What is asked for.
	Scopes []string `json:"scopes,omitempty"`

	// What stands between scopes. Default: a space.
	ScopeSeparator string `json:"scope_separator,omitempty"`

	// Parameters of every token request. In their values, and in those of header
	// fields, `{source.NAME}` stands for the current token of another source: a
	// login in two steps is two sources.
	Params []Param `json:"params,omitempty"`

	// How the token request deviates from a POST of a form.
	TokenRequest *TokenRequest `json:"token_request,omitempty"`

	// How a refresh deviates. What is not said here is as in token_request,
	// except for parameters.
	RefreshRequest *TokenRequest `json:"refresh_request,omitempty"`

	// Where the answer deviates from RFC 6749's.
	TokenResponse *TokenResponse `json:"token_response,omitempty"`

	// The lifetime of a token whose answer says none. Default: such a token is
	// used until the upstream refuses it.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// The percentage of its lifetime after which a token is renewed: from 1 to
	// 99. Default: 80.
	RefreshAt float64 `json:"refresh_at,omitempty"`

	// How long one token request may take. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Allows a plain-http URL that is not on loopback.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// Caddy's own HTTP transport, to the token endpoint.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	inject *Transport // where the provider's API takes the token; nil: where it usually goes
}

// AuthorizeParam is a parameter of the authorization URL.
type AuthorizeParam struct {
	// Its name. Required.
	Name string `json:"name"`

	// Its value.
	Value string `json:"value"`
}

// Claim is a claim of a signed assertion. The same name twice makes a list.
type Claim struct {
	// Its name. Required.
	Name string `json:"name"`

	// Its value.
	Value string `json:"value"`
}

// Param is a parameter of a token request. Of a standard name it replaces the
// standard value.
type Param struct {
	// Its name. Required.
	Name string `json:"name"`

	// Its value, where that is a text.
	Value string `json:"value,omitempty"`

	// Its value, where that is not a text: for the encoding `json` alone.
	JSON json.RawMessage `json:"json,omitempty"`

	// Leaves a standard parameter out.
	Omit bool `json:"omit,omitempty"`
}

// TokenRequest says how a token request looks.
type TokenRequest struct {
	// Where it goes, of a refresh_request. Default: the token_url.
	URL string `json:"url,omitempty"`

	// `GET` or `POST`. Default: `POST`.
	Method string `json:"method,omitempty"`

	// Where the parameters go: `form`, `query` or `json`. Default: `form`, of a
	// GET `query`.
	Encoding string `json:"encoding,omitempty"`

	// Further header fields.
	Headers []RequestHeader `json:"headers,omitempty"`

	// Parameters of this request alone.
	Params []Param `json:"params,omitempty"`

	// The body as it is sent, instead of an encoding.
	Body *RequestBody `json:"body,omitempty"`
}

// RequestBody is the body of a token request, written out.
type RequestBody struct {
	// Its content type, such as `application/json`. Required.
	ContentType string `json:"content_type"`

	// Its text, in which `{NAME}` stands for the parameter NAME that would be sent
	// otherwise, such as `{client_id}`, `{client_secret}`, `{username}`, `{password}`,
	// `{scope}`, `{refresh_token}` or one of params; and there are `{env.*}`,
	// `{file.*}`, `{system.*}` and `{source.NAME}`. Values are escaped for JSON, XML
	// and forms. Parameters that do not stand in it are not sent; `\{` is a brace.
	Template string `json:"template"`
}

// RequestHeader is a header field of a token request.
type RequestHeader struct {
	// Its name. Required.
	Name string `json:"name"`

	// Its value. It is treated as a secret.
	Value string `json:"value"`
}

// TokenResponse says where the fields of an answer are, as dotted paths into
// its JSON.
type TokenResponse struct {
	// The path of the access token, or `.` where the answer is nothing but the
	// token.
	AccessToken string `json:"access_token,omitempty"`

	// The path of the refresh token.
	RefreshToken string `json:"refresh_token,omitempty"`

	// The path of the lifetime.
	ExpiresIn string `json:"expires_in,omitempty"`

	// The unit of expires_in: `s` (the default), `ms`, `m` or `h`.
	ExpiresInUnit string `json:"expires_in_unit,omitempty"`

	// The path of the time at which the token ends.
	ExpiresAt string `json:"expires_at,omitempty"`

	// The format of expires_at: `unix`, `unix_ms` or `rfc3339`. Default:
	// whatever it looks like.
	ExpiresAtFormat string `json:"expires_at_format,omitempty"`

	// The path of a field that says whether it is an error: an answer with this
	// field, and another value than those of error_ok, is one also where its
	// status is 200.
	Error string `json:"error,omitempty"`

	// The values of that field that mean no error.
	ErrorOK []string `json:"error_ok,omitempty"`

	// Further values of the answer, by names of lower-case letters, digits and
	// `_`: their paths. They stand in the format of a header field as
	// `{response.NAME}`. They are kept with the token, and are not treated as
	// secrets; a token cannot be one of them.
	Expose map[string]string `json:"expose,omitempty"`
}

// secretOption is an option whose value is a secret.
type secretOption struct{ option, value string }

// secrets returns the options of the source that should be placeholders. Which
// parameters and fields are secret, only their names can tell.
func (s *Source) secrets() []secretOption {
	all := []secretOption{{"client_secret", s.ClientSecret}, {"password", s.Password}, {"refresh_token", s.RefreshToken},
		{"private_key", s.PrivateKey}, {"client_assertion", s.ClientAssertion}, {"actor_token", s.ActorToken}}
	if !s.takesCallers() {
		all = append(all, secretOption{"subject_token", s.SubjectToken})
	}
	add := func(option, name, value string) {
		if tokensource.IsSecretName(name) {
			all = append(all, secretOption{option + name, value})
		}
	}
	for _, p := range s.Params {
		add("param ", p.Name, p.Value)
	}
	for option, r := range map[string]*TokenRequest{"token_request ": s.TokenRequest, "refresh_request ": s.RefreshRequest} {
		if r == nil {
			continue
		}
		for _, h := range r.Headers {
			add(option+"header ", h.Name, h.Value)
		}
		for _, p := range r.Params {
			add(option+"param ", p.Name, p.Value)
		}
		if r.Body != nil && len(tokensource.Placeholders(r.Body.Template)) == 0 && tokensource.IsSecretName(r.Body.Template) {
			all = append(all, secretOption{option + "body", r.Body.Template})
		}
	}
	if u, err := url.Parse(s.TokenURL); err == nil {
		for name, values := range u.Query() {
			add("token_url ?", name, strings.Join(values, ""))
		}
	}
	if s.Transport != nil {
		var proxy struct{ URL string }
		if json.Unmarshal(s.Transport.NetworkProxyRaw, &proxy) == nil && strings.Contains(proxy.URL, "@") {
			all = append(all, secretOption{"transport network_proxy", proxy.URL})
		}
	}
	return all
}

// exposes says whether {response.NAME} can stand for something.
func (s *Source) exposes(name string) bool {
	return s.TokenResponse != nil && s.TokenResponse.Expose[name] != ""
}

// takesCallers says whether there is one token for each caller.
func (s *Source) takesCallers() bool { return s.SubjectToken == tokensource.Caller }

// hasClientCertificate says whether a certificate proves who we are.
func (s *Source) hasClientCertificate() bool {
	return s.Transport != nil && s.Transport.TLS != nil &&
		(s.Transport.TLS.ClientCertificateFile != "" || s.Transport.TLS.ClientCertificateAutomate != "")
}

// provider returns the host of the token URL or of the issuer, for logs.
func (s *Source) provider() string {
	_, rest, _ := strings.Cut(cmp.Or(s.TokenURL, s.Issuer), "://")
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	return host[strings.LastIndexByte(host, '@')+1:] // a password does not belong there, and is refused later
}
