# A real application reads the user from the session. Here each request names its user.
class FindUser
  def initialize(app)
    @app = app
  end

  def call(env)
    env['user_id'] = Integer(env.fetch('HTTP_X_USER', 187_234))
    @app.call(env)
  end
end
