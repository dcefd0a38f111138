package caddy_test

// interopWay is a grant with a way in which the client proves itself, as a user writes
// them into a source.
type interopWay struct {
	word          string // for names
	grant, client string // as the document has them
	source        string // its options; a line whose {{…}} is nothing at a server is left out
	login         string // the options of another source whose token it uses
	alg           string // of its key
	binding       binding
	person        bool
	caller        bool // each caller brings a token of its own
	wrong         wrongCredential
}

// wrongCredential is what a way has that may be wrong, and who says so.
type wrongCredential struct {
	file  string // what it holds is wrong; "": there is nothing that could be
	code  string // what the provider answers
	by    string // the command that says it
	cause string // what it says
}

func (w wrongCredential) saidBy(command string) wrongCredential {
	w.by = command
	return w
}

// Who says what is wrong.
const (
	byCheck     = "check"     // for what needs nobody
	byShow      = "show"      // for what must not be spent
	byAuthorize = "authorize" // for what a person begins
	byCaller    = "caller"    // the answer to the caller whose token it is
)

var (
	wrongSecret      = wrongCredential{"client-secret", "invalid_client", byCheck, "the provider refused the client: check client_id and client_secret"}
	wrongPassword    = wrongCredential{"password", "invalid_grant", byCheck, "the provider does not take username and password"}
	wrongKey         = wrongCredential{"key.pem", "invalid_client", byCheck, "whether the public key of private_key is registered"}
	wrongCertificate = wrongCredential{"client.pem", "invalid_client", byCheck, "whether the subject of the client certificate is the one that is registered"}
	wrongSelfSigned  = wrongCredential{"client.pem", "invalid_client", byCheck, "whether the client certificate is the one that is registered"}
	wrongAssertion   = wrongCredential{"key.pem", "invalid_grant", byCheck, "the provider does not take the assertion: check whether the public key of private_key is registered"}
)

const (
	clientCredentials = "grant client_credentials\n" + endpoints
	endpoints         = "token_url {{token}}\nrevoke_url {{revoke}}\n" + identity
	identity          = "client_id {{client}}\nscope {{scope}}\n"
	secretFile        = "client_secret {file.{{dir}}/client-secret}\n"
	keyFile           = "private_key {file.{{dir}}/key.pem}\nkey_id " + keyID + "\n"
	certificateFiles  = "transport http {\n tls_trust_pool file {{dir}}/ca.pem\n tls_client_auth {{dir}}/client.pem {{dir}}/client-key.pem\n}\n"
	assertedBy        = "claim iss {{iss}}\nclaim sub {{sub}}\nclaim aud {{aud}}\n"
	tokenExchange     = "grant token_exchange\n" + endpoints + "param audience {{audience}}\n" + secretFile
	authorizationCode = "grant authorization_code\nauthorize_url {{authorize}}\n" + endpoints + "redirect_uri {{redirect}}\n"
)

// theWays are those of the document, in its order.
var theWays = []interopWay{
	{word: "cc-basic", grant: "client_credentials", client: "client_secret_basic", source: clientCredentials + secretFile, wrong: wrongSecret},
	{word: "cc-post", grant: "client_credentials", client: "client_secret_post", source: clientCredentials + secretFile + "client_auth client_secret_post\n", wrong: wrongSecret},
	{word: "cc-query", grant: "client_credentials", client: "client_secret_query", source: clientCredentials + secretFile + "client_auth client_secret_query\n", wrong: wrongSecret},
	{word: "cc-secret-jwt", grant: "client_credentials", client: "client_secret_jwt", source: clientCredentials + secretFile + "client_auth client_secret_jwt\n", wrong: wrongSecret},
	{word: "cc-rs256", grant: "client_credentials", client: "private_key_jwt, RS256", alg: "RS256", source: clientCredentials + keyFile + "claim aud {{aud}}\n", wrong: wrongKey},
	{word: "cc-ps256", grant: "client_credentials", client: "private_key_jwt, PS256", alg: "PS256", source: clientCredentials + keyFile + "signing_alg PS256\nclaim aud {{aud}}\n", wrong: wrongKey},
	{word: "cc-es256", grant: "client_credentials", client: "private_key_jwt, ES256", alg: "ES256", source: clientCredentials + keyFile + "claim aud {{aud}}\n", wrong: wrongKey},
	{word: "cc-eddsa", grant: "client_credentials", client: "private_key_jwt, EdDSA", alg: "EdDSA", source: clientCredentials + keyFile + "claim aud {{aud}}\n", wrong: wrongKey},
	{
		word: "cc-tls", grant: "client_credentials", client: "tls_client_auth, with certificate-bound tokens", binding: withCertificate,
		source: clientCredentials + "client_auth tls_client_auth\n" + certificateFiles, wrong: wrongCertificate,
	},
	{
		word: "cc-self-signed", grant: "client_credentials", client: "self_signed_tls_client_auth, with certificate-bound tokens", binding: withCertificate,
		source: "grant client_credentials\nissuer {{issuer}}\n" + identity + "client_auth self_signed_tls_client_auth\n" + certificateFiles, wrong: wrongSelfSigned,
	},
	{word: "cc-dpop", grant: "client_credentials", client: "client_secret_basic, with DPoP", binding: withProof, source: clientCredentials + secretFile + "dpop\n", wrong: wrongSecret},
	{
		word: "cc-dpop-nonce", grant: "client_credentials", client: "client_secret_basic, with DPoP and nonces of server and API", binding: withFreshProof,
		source: clientCredentials + secretFile + "dpop\n", wrong: wrongSecret,
	},
	{word: "password", grant: "password", client: "client_secret_basic", source: "grant password\n" + endpoints + secretFile + "username peter\npassword {file.{{dir}}/password}\n", wrong: wrongPassword},
	{
		word: "code-secret", grant: "authorization_code", client: "client_secret_basic", source: authorizationCode + secretFile,
		person: true, wrong: wrongSecret.saidBy(byAuthorize),
	},
	{word: "code-public", grant: "authorization_code", client: "none, with PKCE", source: authorizationCode, person: true},
	{word: "code-dpop", grant: "authorization_code", client: "none, with PKCE and DPoP", source: authorizationCode + "dpop\n", binding: withProof, person: true},
	{
		word: "code-key", grant: "authorization_code", client: "private_key_jwt, RS256", alg: "RS256", source: authorizationCode + keyFile + "claim aud {{aud}}\n",
		person: true, wrong: wrongKey.saidBy(byAuthorize),
	},
	{
		word: "code-assertion", grant: "authorization_code", client: "private_key_jwt, a ready assertion in a file", alg: "RS256",
		source: authorizationCode + "client_assertion {file.{{dir}}/assertion}\n", person: true,
		wrong: wrongCredential{"assertion", "invalid_client", byAuthorize, "whether the provider trusts who has issued client_assertion"},
	},
	{word: "device-public", grant: "device_code", client: "none", source: "grant device_code\ndevice_url {{device}}\n" + endpoints, person: true},
	{
		word: "device-secret", grant: "device_code", client: "client_secret_basic", source: "grant device_code\ndevice_url {{device}}\n" + endpoints + secretFile,
		person: true, wrong: wrongSecret.saidBy(byAuthorize),
	},
	{
		word: "refresh", grant: "refresh_token", client: "client_secret_basic", source: "grant refresh_token\n" + endpoints + secretFile + "refresh_token {file.{{dir}}/refresh-token}\n",
		wrong: wrongCredential{"refresh-token", "invalid_grant", byShow, "refresh token or password is wrong, spent, revoked or too old"},
	},
	{
		word: "exchange-file", grant: "token_exchange", client: "client_secret_basic, a token in a file", source: tokenExchange + "subject_token {file.{{dir}}/subject-token}\n",
		wrong: wrongCredential{"subject-token", "invalid_grant", byCheck, "the provider does not take the subject_token"},
	},
	{
		word: "exchange-source", grant: "token_exchange", client: "client_secret_basic, another source's token", source: tokenExchange + "subject_token {source.login}\n",
		login: "grant client_credentials\ntoken_url {{token}}\nclient_id {{login}}\nclient_secret {file.{{dir}}/login-secret}\nscope {{scope}}\n", wrong: wrongSecret,
	},
	{
		word: "exchange-caller", grant: "token_exchange", client: "client_secret_basic, each caller's own token", source: tokenExchange + "subject_token caller\n",
		caller: true, wrong: wrongCredential{"", "invalid_token", byCaller, ""},
	},
	{
		word: "bearer", grant: "jwt_bearer", client: "none", alg: "RS256", source: "grant jwt_bearer\ntoken_url {{token}}\nscope {{scope}}\n" + keyFile + assertedBy,
		wrong: wrongAssertion,
	},
	{
		word: "bearer-secret", grant: "jwt_bearer", client: "client_secret_basic", alg: "RS256", source: "grant jwt_bearer\n" + endpoints + secretFile + keyFile + assertedBy,
		wrong: wrongAssertion,
	},
}

// transport is how the API is reached, where that takes more than its address.
func (w *interopWay) transport() string {
	switch w.binding {
	case withCertificate:
		return certificateFiles
	case withProof, withFreshProof:
		return "transport http {\n tls_trust_pool file {{dir}}/ca.pem\n}\n"
	}
	return ""
}

// wayOf returns the way with a word.
func wayOf(word string) *interopWay {
	for i := range theWays {
		if theWays[i].word == word {
			return &theWays[i]
		}
	}
	panic("there is no way " + word)
}
